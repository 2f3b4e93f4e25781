"""The steps of a study: train, label a policy's own programs, evaluate. What is finished is not run again."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weighted_mtp.config import filled, read_options
from weighted_mtp.configurations import beside
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.config import LEARNED_FROM, LabelOptions
from weighted_mtp.files import atomic_file
from weighted_mtp.pipelines.config import EvaluationConfig
from weighted_mtp.pipelines.fit import FitConfig, finished
from weighted_mtp.pipelines.kinds import PIPELINES
from weighted_mtp.pipelines.label_samples import label
from weighted_mtp.pipelines.run_evaluation import evaluate, holds_evaluation
from weighted_mtp.runtime.device import release_memory
from weighted_mtp.section import validated
from weighted_mtp.study.config import (
    DATASETS_NAME,
    EvaluatedArm,
    OwnPrograms,
    StepConfig,
    StudyConfig,
    Training,
)


@dataclass(frozen=True)
class Step:
    """A stage, or an arm with its evaluations: what is run at once. Any process that sees the storage can run it.

    file  of the study, beside which its `config` files are
    name  of the stage or arm
    """

    study: StudyConfig
    file: Path
    name: str
    seed: int

    @property
    def what(self) -> StepConfig:
        return {**self.study.stages, **self.study.arms}[self.name]

    @property
    def place(self) -> str:
        """The run's name within the study."""
        return self._place(self.name)

    @property
    def run(self) -> Path:
        """The folder of what it leaves."""
        return self.study.storage / "runs" / self.study.name / self.place

    @property
    def evaluations(self) -> dict[float, Path]:
        """The folders of an arm's evaluations, by temperature; only the study's own has none in its name."""
        own, *further = self.study.samplings
        folder = f"evaluation-{self.study.benchmark}"
        return {own: self.run / folder} | {t: self.run / f"{folder}-t{t:g}" for t in further}

    @property
    def after(self) -> frozenset[str]:
        """The places of the stages that it starts from."""
        named = {stage for _, stage in self.study.references(self.name)}
        return frozenset(self._place(name) for name in named - {DATASETS_NAME})

    def is_finished(self) -> bool:
        """Whether running it would do nothing, as far as that is known without running it. Raises as `__call__`."""
        with self._named():
            if isinstance(self.what, OwnPrograms):
                return False
            if isinstance(self.what, Training) and finished(self._training(self.what)) is None:
                return False
            if not self._record.exists():  # trained by hand: what starts from it has to know when
                return False
            self._check_sources()
            return self.name in self.study.stages or all(map(holds_evaluation, self._evaluations()))

    def __call__(self) -> bool:
        """Run what is not finished; False if it was stopped.

        Raises `UserError` for whatever the pipeline refuses, naming the study's file and the place.
        """
        with self._named():
            self._remember_sources()
            started = time.monotonic()
            try:
                return self._run()
            finally:
                self._remember_seconds(time.monotonic() - started)

    def _run(self) -> bool:
        if isinstance(self.what, OwnPrograms):
            self._label_own_programs(self.what)
            return True
        if isinstance(self.what, Training):
            trained = PIPELINES[self.what.pipeline].run(self._training(self.what))
            release_memory()
            if trained is None:
                return False
        if self.name in self.study.arms:
            for evaluation in self._evaluations():
                _evaluated(evaluation)
        return True

    @property
    def seconds(self) -> float:
        """How long it ran in total over all resumptions, its evaluations included."""
        return float(json.loads(self._record.read_text())["seconds"])

    @property
    def _record(self) -> Path:
        """Holds when this step started, and when its source stages did: a stage that was rebuilt since shows by
        that."""
        return self.run / "step.json"

    def _sources(self) -> dict[str, str | None]:
        records = {place: self.run.parent / place / self._record.name for place in sorted(self.after)}
        return {place: _begun(record) for place, record in records.items()}

    def _check_sources(self) -> None:
        """Refuse to resume what was made from stages that have been replaced since."""
        remembered = json.loads(self._record.read_text())["sources"]
        for place, begun in self._sources().items():
            if remembered.get(place, begun) != begun:
                raise UserError(f"it was made from another {place} than is there now: delete {self.run} to rebuild it")

    def _remember_sources(self) -> None:
        if begun := _begun(self._record):
            self._check_sources()
        self.run.mkdir(parents=True, exist_ok=True)
        seconds = self.seconds if begun else 0.0
        self._write({"begun": begun or datetime.now(UTC).isoformat(), "sources": self._sources(), "seconds": seconds})

    def _remember_seconds(self, more: float) -> None:
        facts = json.loads(self._record.read_text())
        self._write({**facts, "seconds": facts["seconds"] + more})

    def _write(self, facts: dict[str, Any]) -> None:
        with atomic_file(self._record) as partial:
            partial.write_text(json.dumps(facts) + "\n")

    def _place(self, name: str) -> str:
        stage = self.study.stages.get(name)
        return name if stage is not None and not stage.per_seed else f"{name}-seed-{self.seed}"

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Prefix an error with the study and the step that failed."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.file}: {self.place}: {error}") from error

    def _filled(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with what each `${name}` stands for."""
        made = {DATASETS_NAME: str(self.study.storage / DATASETS_NAME)}
        for name, stage in self.study.stages.items():
            other = replace(self, name=name)
            made[name] = other._dataset if isinstance(stage, OwnPrograms) else str(other.run)
        return filled(options, made)

    @property
    def _dataset(self) -> str:
        return f"{self.study.name}-{self.place}"

    def _training(self, training: Training) -> FitConfig:
        study = self.study
        fixed = {
            "pipeline": training.pipeline,
            "run": {"name": f"{study.name}/{self.place}", "root": str(study.storage / "runs"), "seed": self.seed},
            "data": {"root": str(study.storage / DATASETS_NAME)},
            "mlflow": {"tracking_uri": f"sqlite:///{study.storage / 'mlflow.db'}", "study": study.name},
        }
        own = [self._filled(options) for options in (training.override, study.override)]
        options = read_options(beside(self.file.parent, training.config), [fixed, *own])
        schema = PIPELINES[training.pipeline].schema
        config = validated(schema, options, f"{training.config} with the study's options: ")
        if (folder := config.run.root / config.run.name) != self.run:
            raise UserError(
                f"its run is {folder}, but a study's steps look for {self.run}: leave out run.name and .root"
            )
        return config

    def _label_own_programs(self, stage: OwnPrograms) -> None:
        """Sample from a policy, execute and label."""
        study = self.study
        drawn = {
            "n_samples": stage.n_samples,
            "temperature": stage.temperature,
            "seed": self.seed if stage.seed is None else stage.seed,
        }
        evaluations = [
            _evaluated(
                EvaluationConfig(
                    benchmark=stage.benchmark or study.benchmark,
                    **self._sampled(stage),
                    output=self.run / split,
                    data_root=study.storage / DATASETS_NAME,
                    split=split,
                    first=stage.first,
                    sampling=study.sampling.model_copy(update=drawn),
                    packages=study.packages,
                )
            )
            for split in LEARNED_FROM
        ]
        label(
            evaluations,
            study.storage / DATASETS_NAME / self._dataset,
            LabelOptions(keep_solutions=stage.keep_solutions),
        )

    def _sampled(self, what: EvaluatedArm | OwnPrograms | None) -> dict[str, Any]:
        """What samples come from: a policy that is named, or the one that this step trained."""
        if what is not None and what.server is not None:
            return {"server": what.server}
        own = {"checkpoint": str(self.run) if what is None else what.checkpoint}
        study = self.study
        return {**self._filled(own), "engine": study.engine, "vllm_args": study.vllm_args, "dtype": study.dtype}

    def _evaluations(self) -> list[EvaluationConfig]:
        policy = self._sampled(self.what if isinstance(self.what, EvaluatedArm) else None)
        return [
            EvaluationConfig(
                benchmark=self.study.benchmark,
                **policy,
                output=folder,
                data_root=self.study.storage / DATASETS_NAME,
                split=self.study.split,
                first=self.study.first,
                sampling=self.study.samplings[temperature],
                packages=self.study.packages,
            )
            for temperature, folder in self.evaluations.items()
        ]


def _begun(record: Path) -> str | None:
    return json.loads(record.read_text())["begun"] if record.exists() else None


def steps_of(study: StudyConfig, file: Path) -> list[Step]:
    """All steps of the study in `file`, each after those that it starts from: stages that run once; then seed by seed
    stages and arms, so that a study which is stopped early has a comparison already.
    """
    once = [name for name, stage in study.stages.items() if not stage.per_seed]
    per_seed = [name for name in (*study.stages, *study.arms) if name not in once]
    return [
        *(Step(study, file, name, study.seeds[0]) for name in once),
        *(Step(study, file, name, seed) for seed in study.seeds for name in per_seed),
    ]


def all_before(steps: Sequence[Step]) -> dict[str, frozenset[str]]:
    """Place of each step → those of all steps that must be there before it."""
    before: dict[str, frozenset[str]] = {}
    for step in steps:
        before[step.place] = step.after.union(*(before[place] for place in step.after))
    return before


def bottlenecks(steps: Sequence[Step]) -> frozenset[str]:
    """Places of the steps beside which no other can run: all others come before or after them."""
    before = all_before(steps)
    return frozenset(
        own for own in before if all(own in before[other] or other in before[own] for other in before if other != own)
    )


def _evaluated(config: EvaluationConfig) -> Path:
    """The folder of an evaluation, which is made unless it is there."""
    if not holds_evaluation(config):
        evaluate(config)
        release_memory()
    return config.output
