"""Where a run's records go: `metrics.jsonl`, and from there to MLflow, Weights & Biases and TensorBoard."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from pydantic import field_validator

from weighted_mtp.errors import UserError
from weighted_mtp.extras import has, install
from weighted_mtp.files import atomic_file
from weighted_mtp.progress import say
from weighted_mtp.runtime.distributed import agree, is_first
from weighted_mtp.section import Section
from weighted_mtp.training.mlflow_run import MLflowConfig, MLflowRun
from weighted_mtp.training.run_directory import Record, RunDirectory
from weighted_mtp.training.tensorboard_run import TensorBoardRun
from weighted_mtp.training.wandb_run import WandbConfig, WandbRun

TrackerName = Literal["mlflow", "wandb", "tensorboard"]


class Tracked(Section):
    """What follows a run, beside its own `metrics.jsonl`."""

    tracking: tuple[TrackerName, ...] = ("mlflow",)
    """Any of mlflow, wandb and tensorboard, as a list or comma-separated; `none` for the run's own folder only."""
    mlflow: MLflowConfig = MLflowConfig()
    wandb: WandbConfig = WandbConfig()

    @field_validator("tracking", mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        names = given.split(",") if isinstance(given, str) else given
        return [] if names == ["none"] else names


class TrackedRun(Protocol):
    """A run in one of the trackers."""

    def log(self, record: Record) -> None:
        """Send a record, or keep it until it can be sent."""

    def tag(self, key: str, value: str) -> None:
        """A fact about the run."""

    def artifact(self, file: Path) -> None:
        """A file that belongs to the run."""

    def close(self, status: str) -> None:
        """FINISHED or FAILED."""


class Tracker:
    """Writes each record to `metrics.jsonl` at once, and to the trackers that are chosen; only on the first rank.

    The file is the truth: while MLflow's server is away the run says so once, continues, and sends what is missing as
    soon as the server is back; what could not be sent by the end stays in the file.
    """

    def __init__(self, run: RunDirectory, config: Tracked, first_step: int) -> None:
        """Raises `UserError` for a tracker that is not installed, but for MLflow, the default, of which it is said."""
        self.run = run
        with agree():
            self._runs = self._open(config, first_step) if is_first() else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracked in self._runs:
            tracked.close("FAILED" if kind else "FINISHED")

    def log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One record: `step` counts finished optimizer steps; `split` is train or validation."""
        if not is_first():
            return
        record = {"step": step, "split": split, **values}
        with self.run.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for tracked in self._runs:
            tracked.log(record)

    def checkpoint(self, path: Path) -> None:
        """Record where the newest checkpoint lies."""
        for tracked in self._runs:
            tracked.tag("checkpoint", str(path))

    def artifact(self, file: Path) -> None:
        """Show a file beside the run."""
        for tracked in self._runs:
            tracked.artifact(file)

    def _open(self, config: Tracked, first_step: int) -> list[TrackedRun]:
        records = self._drop_records_after(first_step)
        found: list[TrackedRun] = []
        if self._has(config, "mlflow", records):
            found.append(MLflowRun(self.run, config.mlflow, records))
        if self._has(config, "wandb", records):
            found.append(WandbRun(self.run, config.wandb, records))
        if self._has(config, "tensorboard", records):
            found.append(TensorBoardRun(self.run, records, first_step))
        return found

    def _has(self, config: Tracked, name: TrackerName, records: Sequence[Record]) -> bool:
        if name not in config.tracking or has(name):
            return name in config.tracking
        if name != "mlflow":
            raise UserError(f"tracking={name}: {install(name)}, or leave it out")
        say(f"the run is in {self.run.metrics}, not in MLflow: {install(name)}, or set tracking=none")
        known = self.run.manifest()
        sent = known.get("mlflow_records", len(records) if "mlflow_run_id" in known else 0)
        self.run.remember(mlflow_records=sent)  # a resume with MLflow sends the others
        return False

    def _drop_records_after(self, step: int) -> list[Record]:
        """The records that stay: a run killed after its last checkpoint repeats some steps, whose earlier records are
        dropped."""
        if not self.run.metrics.exists():
            return []
        kept = []
        for line in self.run.metrics.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # killed in mid-line
                break
            if record["step"] <= step and step > 0:  # at step 0 nothing is resumed: it is validated again, too
                kept.append(record)
        with atomic_file(self.run.metrics) as partial:
            partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
        return kept
