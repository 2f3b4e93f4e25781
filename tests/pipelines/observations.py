"""What a run, an evaluation or a study leaves, as named values that an option may change."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from completions_server import MODEL, CompletionsServer
from method_storage import CONFIGS, new_storage
from transformers import PreTrainedModel

from weighted_mtp.config import load_config
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.decoding import sample
from weighted_mtp.decoding import server as server_module
from weighted_mtp.decoding.engine import TorchEngine
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation import answers
from weighted_mtp.evaluation.samples import write_jsonl
from weighted_mtp.models.checkpoint import newest_model
from weighted_mtp.pipelines import run_evaluation
from weighted_mtp.pipelines.config import EvaluationConfig, GenerateConfig
from weighted_mtp.pipelines.generate import generate
from weighted_mtp.pipelines.kinds import PIPELINES
from weighted_mtp.runtime import sharding
from weighted_mtp.section import flatten, validated
from weighted_mtp.study import steps as study_steps
from weighted_mtp.study.config import OwnPrograms, StudyConfig, Training
from weighted_mtp.study.steps import steps_of
from weighted_mtp.training import updates
from weighted_mtp.value_weighting.base import TokenWeighting
from weighted_mtp.value_weighting.controls import Uniform

Observations = Mapping[str, Any]
CHAT = "{{ 'Today is ' + strftime_now('%d %b %Y') + '. ' + messages[0]['content'] }}"
COMMON = [
    "tracking=none",
    "training.max_steps=3",
    "training.validate_every=3",
    "training.validation_batches=1",
    "training.save_every=3",
    "optim.lr=1e-2",
    "optim.warmup_steps=1",
    "data.max_tokens=512",
]
STUDY = {
    "name": "study",
    "stages": {
        "own": {"pipeline": "own_programs", "checkpoint": "storage/runs/policy"},
        "critic": {"pipeline": "critic", "config": "critic_local.yaml", "override": {"data": {"dataset": "${own}"}}},
    },
    "arms": {
        "uniform": {"pipeline": "baseline", "config": "baseline_local.yaml"},
        "weighted": {"pipeline": "verifiable", "config": "verifiable_local.yaml", "override": {"critic": "${critic}"}},
    },
}


def scaled(_policy: PreTrainedModel, scale: float = 1.0) -> TokenWeighting:
    """A weighting of another package: rising over the batch's columns."""

    class Rising(Uniform):
        def __call__(self, batches: Any, state: Any) -> Any:
            weights, state = super().__call__(batches, state)
            return [1 + scale * torch.arange(w.shape[1]) * w for w in weights], state

    return Rising()


class Bench:
    """Data, models and a server to start from; and what comes of options, each combination of them once."""

    def __init__(self, folder: Path, server: CompletionsServer, patch: pytest.MonkeyPatch) -> None:
        storage = new_storage(folder)
        self.server = server
        server.habits.models, server.habits.seconds = (MODEL, "other"), 0.2
        patch.setattr(server_module, "ATTEMPTS", 1)
        self.folder, self._known = folder, dict[tuple[str, ...], Observations]()
        storage.train("baseline", "policy", "model.source=micro")
        storage.train(
            "critic", "other", "critic.objective=outcome", f"value.source={storage.run('reference')}", "optim.lr=1e-2"
        )
        storage.train("ref-tuning", "reference2", "optim.lr=1e-2")
        write_micro(folder / "others", MicroConfig(n_train=30, n_validation=10, n_test=2, n_test_pairs=2, seed=1))
        write_micro(
            folder / "foreign", MicroConfig(n_train=30, n_validation=10, n_test=2, n_test_pairs=2, vocab_size=320)
        )
        shutil.copytree(folder / "others" / "micro", folder / "datasets" / "second")
        shutil.copytree(newest_model(storage.run("policy")), folder / "dated")
        (folder / "dated" / "chat_template.jinja").write_text(CHAT)
        rows = [{"task_id": f"micro/test/{i}", "completion": "x"} for i in range(1)]
        write_jsonl(folder / "one.jsonl", rows)
        patch.setattr("weighted_mtp.pipelines.run_third_party.weighting_named", {"a": Uniform, "b": scaled}.get)

    def filled(self, option: str) -> str:
        """An option, in which @ stands for the folder of everything."""
        return option.replace("@", str(self.folder))

    def observed(self, kind: str, *options: str) -> Observations:
        """`kind` is a pipeline, `evaluate`, `generate` or `study`. A user's error is an observation, too."""
        key = (kind, *options)
        if key not in self._known:
            kinds = {"evaluate": self._evaluation, "generate": self._generation, "study": self._study}
            observe = kinds.get(kind, self._run)
            try:
                self._known[key] = observe(key, [self.filled(option) for option in options])
            except UserError as error:
                self._known[key] = {"error": str(error)}
        return self._known[key]

    def _run(self, key: Sequence[str], options: Sequence[str]) -> Observations:
        pipeline, name = key[0], f"run-{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}"
        start = {
            "critic": ["value.source=@/runs/reference"],
            "verifiable": ["critic=@/runs/outcome"],
            "rho1": ["reference=@/runs/reference"],
            "third_party": ["token_weighting=a"],
        }.get(pipeline, [])
        policy = ["model.micro.hidden_size=16", "model.micro.num_attention_heads=2", "model.micro.num_hidden_layers=2"]
        policy += ["model.source=@/runs/policy", "model.micro_tokenizer=@/datasets/micro/tokenizer"]
        fixed = [f"run.name={name}", "run.root=@/runs", "data.root=@/datasets", *COMMON]
        all_options = [*fixed, *([] if pipeline == "critic" else policy), *start]
        schema, run = PIPELINES[pipeline]
        config = load_config(schema, CONFIGS / f"{pipeline}_local.yaml", [*map(self.filled, all_options), *options])
        threads = torch.get_num_threads()
        with calls() as called:
            folder = run(config)
        torch.set_num_threads(threads)
        mlflow = json.loads((folder / "run.json").read_text()).get("mlflow_run_id")
        elsewhere = {"copies": listing(self.folder / "copies"), "tracked": tracked(self.folder, mlflow)}
        return {**of_run(folder), **called, **elsewhere}

    def _evaluation(self, key: Sequence[str], options: Sequence[str]) -> Observations:
        output = self.folder / "evaluations" / hashlib.sha256(repr(key).encode()).hexdigest()[:12]
        given: dict[str, Any] = {
            "benchmark": "micro",
            "output": output,
            "checkpoint": f"{self.folder}/runs/policy",
            "data_root": self.folder / "datasets",
            "first": 2,
            "sampling": {"max_new_tokens": 8},
        }
        for option in options:
            name, _, value = option.partition("=")
            place, *inner = reversed(name.split("."))
            (given[inner[0]] if inner else given)[place] = json.loads(value)
        if given.get("samples"):
            del given["checkpoint"], given["sampling"]
        if "server" in given:
            del given["checkpoint"]
            given["server"] = {"base_url": self.server.base_url, "model": MODEL, **given["server"]}
            self.server.paths.clear()
        config = validated(EvaluationConfig, given)
        with respondents() as dtypes, drafting() as drafted:
            run_evaluation.evaluate(config)
        described = json.loads((config.output / "evaluation.json").read_text())
        rows = [json.loads(line) for line in (config.output / "results.jsonl").read_text().splitlines()]
        page = (config.output / "report.md").read_text()
        report = json.loads((config.output / "report.json").read_text())
        return {
            "output": config.output.name,
            "day": described["origin"].get("day"),
            "served": described["origin"].get("served_model"),
            "paths": [*self.server.paths],
            "problems": described["origin"]["problems_sha256"],
            "tasks": [row["task_id"] for row in rows],
            "texts": [row.get("text", row.get("completion")) for row in rows],
            "execution": {name: v for name, v in described["execution"].items() if name != "samples_sha256"},
            "k": sorted(json.dumps(report["pass_at_k"])),
            "facts": [line for line in page.splitlines() if str(config.output) not in line and "tokens/s" not in line],
            "dtype": dtypes,
            "drafted": drafted,
        }

    def _generation(self, _key: Sequence[str], options: Sequence[str]) -> Observations:
        (self.folder / "one.txt").write_text("a text")
        (self.folder / "piped.txt").write_text("a piped text")
        given: dict[str, Any] = {
            "checkpoint": f"{self.folder}/runs/policy",
            "prompt": "a prompt",
            "output": self.folder / "generated.jsonl",
            "sampling": {"max_new_tokens": 4},
        }
        for option in options:
            name, _, value = option.partition("=")
            given[name] = json.loads(value)
        config = validated(GenerateConfig, given)
        with pytest.MonkeyPatch.context() as patch, (self.folder / "piped.txt").open() as piped:
            patch.setattr("sys.stdin", piped)
            generate(config)
        assert config.output is not None
        rows = [json.loads(line) for line in config.output.read_text().splitlines()]
        return {"prompts": [row["prompt"] for row in rows], "output": config.output.name}

    def _study(self, _key: Sequence[str], options: Sequence[str]) -> Observations:
        file = self.folder / "study.json"
        file.write_text(json.dumps(STUDY))
        study = load_config(StudyConfig, file, options)
        steps = steps_of(study, CONFIGS / file.name)
        evaluated: list[EvaluationConfig] = []
        labelled: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(study_steps, "_evaluated", lambda config: evaluated.append(config) or config.output)
            patch.setattr(study_steps, "label", lambda *given: labelled.append(given[1:]))
            for step in steps:
                if isinstance(step.what, OwnPrograms):
                    step._label_own_programs(step.what)
                elif step.name in study.arms:
                    evaluated.extend(step._evaluations())
        trained = [step for step in steps if isinstance(step.what, Training)]
        return {
            "places": [str(step.run) for step in steps],
            "pipelines": [PIPELINES[step.what.pipeline].run.__name__ for step in trained],
            "options": [flatten(step._training(step.what)) for step in trained],
            "evaluations": [flatten(config) for config in evaluated],
            "labelled": [str(given) for given in labelled],
            "compared": {name: arm.against for name, arm in study.arms.items()},
        }


def of_run(run: Path) -> Observations:
    """What a run logged (each metric's values over the steps), its weights, its files, and what it was made from."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train, validation = ([r for r in lines if r["split"] == split] for split in ("train", "validation"))
    facts = json.loads((run / "run.json").read_text())
    best = run / "checkpoints" / "best"
    names = {name for record in train for name in record if name != "seconds"}
    return {
        **{name: [record.get(name) for record in train] for name in names},
        "validated": [record["step"] for record in validation],
        "validation": [record["loss"] for record in validation],
        "folder": str(run),
        "weights": checksum_of(newest_model(run)),
        "checkpoints": [path.name for path in sorted((run / "checkpoints").glob("step-*"))],
        "best": best.readlink().name if best.is_symlink() else None,
        "files": listing(newest_model(run)),
        "config": (newest_model(run) / "config.json").read_text(),
        "inputs": facts["inputs"],
        "threads": facts["cpu_threads"],
    }


def checksum_of(model: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(model.glob("*.safetensors")))).hexdigest()


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@contextmanager
def calls() -> Iterator[dict[str, list[Any]]]:
    """Whether each backward added gradients up over ranks, and whether layers were computed twice, or compiled."""
    found: dict[str, list[Any]] = {"reduced": [], "recomputed": [], "compiled": []}
    recomputing = sharding.recomputing

    def recomputed(*given: Any) -> Any:
        found["recomputed"].append(len(given))
        return recomputing(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(updates, "reduce_gradients", lambda _model, now: found["reduced"].append(now))
        patch.setattr(sharding, "recomputing", recomputed)
        patch.setattr(torch, "compile", lambda forward, **_: found["compiled"].append(1) or forward)
        yield found


def tracked(folder: Path, run: str | None) -> tuple[str, str] | None:
    """The database and the experiment that hold a run of MLflow."""
    query = "select e.name from runs r join experiments e on r.experiment_id = e.experiment_id where run_uuid = ?"
    for file in folder.glob("*.db") if run is not None else ():
        with closing(sqlite3.connect(file)) as database:
            for (experiment,) in database.execute(query, (run,)):
                return file.name, experiment
    return None


@contextmanager
def respondents() -> Iterator[list[str]]:
    """In what precision models were asked."""
    found: list[str] = []
    draw = answers.draw_samples

    def drawn(respondent: Any, *given: Any) -> None:
        if isinstance(respondent.engine, TorchEngine):
            found.append(str(next(respondent.engine.model.parameters()).dtype))
        draw(respondent, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "draw_samples", drawn)
        yield found


@contextmanager
def drafting() -> Iterator[list[int]]:
    """How many tokens were drafted for a pass."""
    found: list[int] = []
    decode = sample.decode

    def decoded(forward: Any, *given: Any, **named: Any) -> Any:
        found.append(forward.n_drafts)
        return decode(forward, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "decode", decoded)
        yield found
