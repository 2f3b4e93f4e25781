"""The training pipelines on a tiny micro benchmark, as functions that a rank can call."""

import errno
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from weighted_mtp.config import load_config
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.losses.objective import Sums
from weighted_mtp.pipelines.kinds import PIPELINES
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.distributed import process_group, rank
from weighted_mtp.training.loop import Trainer
from weighted_mtp.training.updates import Updates

torch.set_num_threads(1)

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "local"
COMMON = [
    "tracking=none",
    "runtime.threads=1",
    "runtime.precision=fp32",
    "data.max_tokens=512",
    "training.max_steps=8",
    "training.gradient_accumulation=4",
    "training.validate_every=4",
    "training.validation_batches=3",
    "training.save_every=100",
    "optim.lr=1e-3",
    "optim.warmup_steps=2",
]
TINY = ["model.micro.hidden_size=16", "model.micro.num_attention_heads=2", "model.micro.num_hidden_layers=2"]

Case = tuple[str, str, Sequence[str]]
"""A pipeline, the run's name, and options."""


def overrides(storage: Path, pipeline: str, name: str, options: Sequence[str]) -> list[str]:
    """What a run changes in its pipeline's local configuration."""
    source = [] if pipeline == "critic" else [*TINY, f"model.micro_tokenizer={storage}/datasets/micro/tokenizer"]
    where = [f"run.name={name}", f"run.root={storage}/runs", f"data.root={storage}/datasets"]
    return [*where, *COMMON, *source, *options]


def train(storage: Path, pipeline: str, name: str, options: Sequence[str]) -> Path | None:
    """One run, on all ranks that there are; its folder."""
    schema, run = PIPELINES[pipeline]
    config = load_config(schema, CONFIGS / f"{pipeline}_local.yaml", overrides(storage, pipeline, name, options))
    with process_group(config.runtime):
        return run(config)


def train_all(storage: Path, cases: Sequence[Case]) -> list[Path | None]:
    """Several runs, one after the other, by the same ranks."""
    with process_group(RuntimeConfig(device="cpu")):
        return [train(storage, *case) for case in cases]


def prepare(storage: Path, problems: int = 16) -> None:
    """Data of so many problems, a reference, a critic and a policy to start from, made in one process."""
    write_micro(storage / "datasets", MicroConfig(n_train=problems, n_validation=6, n_test=2, n_test_pairs=2))
    reference = f"value.source={storage / 'runs' / 'reference'}"
    train(storage, "ref_tuning", "reference", ["training.max_steps=3"])
    train(storage, "critic", "outcome", [reference, "critic.objective=outcome", "training.max_steps=3"])
    train(storage, "baseline", "policy", ["training.max_steps=3", "model.source=micro"])


def start_of(storage: Path, pipeline: str) -> list[str]:
    """The options by which a pipeline starts from what `prepare` made."""
    runs = storage / "runs"
    policy = f"model.source={runs / 'policy'}"
    return {
        "baseline": [policy],
        "verifiable": [policy, f"critic={runs / 'outcome'}"],
        "rho1": [policy, f"reference={runs / 'reference'}"],
        "critic": [f"value.source={runs / 'reference'}"],
        "ref_tuning": [f"model.source={runs / 'reference'}"],
    }[pipeline]


def records(run: Path, split: str | None = None) -> list[dict]:
    """What a run logged, without the time it took."""
    kept = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "seconds"} for r in kept if split in (None, r["split"])]


def disturbed(storage: Path, case: Case, what: str, by: int, step: int) -> Path | None:
    """A run in which something happens to one rank in 0-based `step`: see `DISTURBANCES`. For a process of its own."""
    run, undisturbed = Trainer.run, Updates.step
    trainers: list[Trainer] = []

    def remembered_run(self: Trainer) -> bool:
        trainers.append(self)
        return run(self)

    def disturbed_step(self: Updates) -> dict[str, float]:
        if rank() == by and self.state.step == step:
            DISTURBANCES[what](trainers[-1])
        return undisturbed(self)

    Trainer.run, Updates.step = remembered_run, disturbed_step  # type: ignore[method-assign]
    return train(storage, *case)


def _not_finite(trainer: Trainer) -> None:
    sums = trainer.updates.objective.sums

    def poisoned(model: Any, item: Any) -> Sums:
        given = sums(model, item)
        return Sums(given.loss * float("nan"), given.count, given.metrics)

    trainer.updates.objective.sums = poisoned  # type: ignore[method-assign]


def _full_disk(trainer: Trainer) -> None:
    def full(_model: Any, path: Path) -> None:
        path.mkdir()
        (path / "half").write_text("written")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    trainer.checkpoints.save_model = full


DISTURBANCES: dict[str, Callable[[Trainer], None]] = {
    "terminated": lambda _: os.kill(os.getpid(), signal.SIGTERM),
    "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "not finite": _not_finite,
    "full disk": _full_disk,
}
