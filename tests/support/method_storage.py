"""The method through its commands on a tiny micro benchmark, as the tests of it need it."""

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from typer.testing import CliRunner, Result

from weighted_mtp.cli import app
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.training.tracking import Tracker

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "local"
COMMON = [
    "tracking=none",
    "training.max_steps=4",
    "training.validate_every=2",
    "training.validation_batches=2",
    "training.save_every=4",
    "optim.lr=1e-3",
    "optim.warmup_steps=2",
]
TINY = ["model.micro.hidden_size=32", "model.micro.num_attention_heads=2", "model.micro.num_hidden_layers=2"]
WHOLE_EPOCH = "training.gradient_accumulation=1000"  # every step sees all samples, however they are cut
OBJECTIVES = ["outcome", "pairwise_ranking", "lambda_return", "implicit"]


@dataclass(frozen=True)
class Storage:
    """Where the data and the runs of these tests lie."""

    folder: Path

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name

    def command(self, pipeline: str, name: str, *more: str) -> Result:
        """One step of the method as a user types it, tiny."""
        tokenizer = f"model.micro_tokenizer={self.folder}/datasets/micro/tokenizer"
        options = [
            f"run.name={name}",
            f"run.root={self.folder}/runs",
            f"data.root={self.folder}/datasets",
            *COMMON,
            *([] if pipeline == "critic" else [*TINY, tokenizer]),
            *more,
        ]
        config = CONFIGS / f"{pipeline.replace('-', '_')}_local.yaml"
        overrides = [part for option in options for part in ("--override", option)]
        return CliRunner().invoke(app, ["train", pipeline, "--config", str(config), *overrides])

    def train(self, pipeline: str, name: str, *more: str) -> Path:
        result = self.command(pipeline, name, *more)
        assert result.exit_code == 0, result.output or repr(result.exception)
        return self.run(name)

    def verifiable(self, name: str, *more: str, critic: str = "outcome") -> Path:
        """Weights alone: confidence, which is a factor in the local configuration, has tests of its own."""
        return self.train("verifiable", name, *self.from_critic(critic), "loss.confidence=null", *more)

    def rho1(self, name: str, *more: str) -> Path:
        return self.train("rho1", name, *self.from_policy(), f"reference={self.run('reference')}", *more)

    def from_policy(self) -> list[str]:
        return [f"model.source={self.run('policy')}"]

    def from_critic(self, critic: str) -> list[str]:
        return [*self.from_policy(), f"critic={self.run(critic)}"]


def new_storage(folder: Path, **micro: int) -> Storage:
    """Data, a reference, a policy of four heads, and a critic."""
    write_micro(folder / "datasets", MicroConfig(n_train=30, n_validation=10, n_test=2, n_test_pairs=2, **micro))
    storage = Storage(folder)
    storage.train("ref-tuning", "reference")
    storage.train("critic", "outcome", "critic.objective=outcome", f"value.source={storage.run('reference')}")
    return storage


def records(run: Path, split: str | None = None) -> list[dict]:
    """What a run logged, without the time it took."""
    kept = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "seconds"} for r in kept if split in (None, r["split"])]


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / "step-00000004" / "model" / "model.safetensors").read_bytes()


def objective_state(run: Path) -> Mapping[str, torch.Tensor]:
    """What the method remembers at the last step."""
    file = run / "state.pt"
    dcp_to_torch_save(run / "checkpoints" / "step-00000004" / "state", file)
    return torch.load(file)["objective"]


def error_of(result: Result) -> str:
    """The one line that the command ended with."""
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.output
    return line


def stopped_after_three(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, pipeline: str, name: str, *options: str
) -> None:
    """A run that SIGTERM stops after its third step."""
    log = Tracker.log

    def stop_after_three(self: Tracker, step: int, split: str, values: Mapping[str, float]) -> None:
        log(self, step, split, values)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "log", stop_after_three)
        assert storage.command(pipeline, name, *options).exit_code == 130
    assert [c.name for c in (storage.run(name) / "checkpoints").iterdir()] == ["step-00000003"]
