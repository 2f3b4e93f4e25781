"""The steps of a study: train, label a policy's own programs, evaluate. What is finished is not run again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weighted_mtp.config import load_config
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.labelled import LEARNED_FROM, LabelOptions
from weighted_mtp.pipelines.critic import CriticConfig
from weighted_mtp.pipelines.fit import FitConfig
from weighted_mtp.pipelines.label_samples import label
from weighted_mtp.pipelines.policy import PolicyConfig
from weighted_mtp.pipelines.run_baseline import run_baseline
from weighted_mtp.pipelines.run_critic import run_critic
from weighted_mtp.pipelines.run_evaluation import EvaluationConfig, evaluate, holds_evaluation
from weighted_mtp.pipelines.run_ref_tuning import run_ref_tuning
from weighted_mtp.pipelines.run_rho1 import Rho1RunConfig, run_rho1
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig, run_verifiable
from weighted_mtp.pipelines.study import DATASETS, OwnPrograms, Pipeline, StudyConfig, Training

PIPELINES: dict[Pipeline, tuple[type[FitConfig], Callable[[Any], Path | None]]] = {
    "ref_tuning": (PolicyConfig, run_ref_tuning),
    "critic": (CriticConfig, run_critic),
    "baseline": (PolicyConfig, run_baseline),
    "verifiable": (VerifiableConfig, run_verifiable),
    "rho1": (Rho1RunConfig, run_rho1),
}

Made = dict[str, str]
"""Stage → what its name in braces stands for."""


def train(study: StudyConfig, folder: Path, place: str, step: Training, seed: int, made: Made) -> Path | None:
    """A training run's folder, None where it was stopped.

    folder  that `step.config` is relative to
    place   the run's name within the study

    Raises `UserError` for whatever the pipeline refuses, naming the place.
    """
    schema, pipeline = PIPELINES[step.pipeline]
    fixed = [
        f"run.name={study.name}/{place}",
        f"run.root={study.storage / 'runs'}",
        f"run.seed={seed}",
        f"data.root={study.storage / DATASETS}",
        f"mlflow.tracking_uri=sqlite:///{study.storage / 'mlflow.db'}",
    ]
    with _named(place):
        own = [option.format(**made) for option in (*step.override, *study.override)]
        return pipeline(load_config(schema, folder / step.config, [*fixed, *own]))


def label_own_programs(study: StudyConfig, place: str, stage: OwnPrograms, seed: int, made: Made) -> str:
    """Sample from a policy, execute and label; returns the dataset's name. Raises `UserError` as `train`."""
    datasets = study.storage / DATASETS
    drawn = {
        "n_samples": stage.n_samples,
        "temperature": stage.temperature,
        "seed": seed if stage.seed is None else stage.seed,
    }
    dataset = f"{study.name}-{place}"
    with _named(place):
        evaluations = [
            _evaluated(
                EvaluationConfig(
                    benchmark=stage.benchmark or study.benchmark,
                    checkpoint=stage.checkpoint.format(**made),
                    output=study.storage / "runs" / study.name / place / split,
                    data_root=datasets,
                    split=split,
                    first=stage.first,
                    sampling=study.sampling.model_copy(update=drawn),
                )
            )
            for split in LEARNED_FROM
        ]
        label(evaluations, datasets / dataset, LabelOptions(keep_solutions=stage.keep_solutions))
    return dataset


def evaluate_arm(study: StudyConfig, run: Path) -> Path:
    """The folder of the evaluation of an arm's run. Raises `UserError` as `train`."""
    with _named(run.name):
        return _evaluated(
            EvaluationConfig(
                benchmark=study.benchmark,
                checkpoint=str(run),
                output=run / f"evaluation-{study.benchmark}",
                data_root=study.storage / DATASETS,
                split=study.split,
                first=study.first,
                sampling=study.sampling,
            )
        )


def _evaluated(config: EvaluationConfig) -> Path:
    """The folder of an evaluation, which is made unless it is there."""
    if not holds_evaluation(config):
        evaluate(config)
    return config.output


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Say which step an error is of."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
