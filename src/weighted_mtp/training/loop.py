"""The only training loop. What is trained, on what and how it is weighted are the objects it is given."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from pydantic import Field, model_validator

from weighted_mtp.data.batches import Batch
from weighted_mtp.progress import console, progress
from weighted_mtp.runtime.distributed import any_rank, ranks
from weighted_mtp.section import Section
from weighted_mtp.training.state import Checkpoints, TrainState
from weighted_mtp.training.tracking import Tracker
from weighted_mtp.training.updates import NonFiniteError, Updates


class TrainingConfig(Section):
    """How long to train, in what portions, and how often to validate and save."""

    max_steps: int = Field(1000, ge=1)
    """Optimizer steps."""
    gradient_accumulation: int = Field(1, ge=1)
    """Microbatches per optimizer step, over all ranks; the gradient is divided once, for all of them. A step is
    the same on any number of ranks; this must be a multiple of that number."""
    validate_every: int = Field(100, ge=1)
    """Steps between validations; there is always one before the first step and one after the last."""
    validation_batches: int | None = Field(None, ge=1)
    """Batches per validation; the whole split if not given."""
    save_every: int = Field(500, ge=1)
    """Steps between checkpoints."""
    save_total_limit: int = Field(2, ge=1)
    """How many checkpoints are kept, the newest ones; the best one is kept as well."""
    save_lora_only: bool = False
    """Checkpoints hold adapters (and what else is trained) instead of a whole model, in PEFT's form."""
    save_in_background: bool = False
    """Copy to main memory what a checkpoint holds, and write it while training continues: for several ranks. If one is
    still being written when the next is due, the run waits."""
    upload_to: str | None = None
    """Folder of runs on another file system, such as `s3://bucket/runs`: checkpoints are copied there in the
    background."""
    best_metric: str | None = None
    """A validation metric, such as `loss`: the checkpoint with the best value is kept, as `checkpoints/best`."""
    best_mode: Literal["min", "max"] = "min"
    """Whether the lowest or the highest is best."""
    log_every: int = Field(1, ge=1)
    """Steps between records of `metrics.jsonl`; a record holds its own step's values, not an average."""

    @model_validator(mode="after")
    def _best_is_of_something(self) -> "TrainingConfig":
        if self.best_metric is None and self.best_mode != "min":
            raise ValueError(f"best_mode={self.best_mode} has no effect without best_metric: give one, such as loss")
        return self


@dataclass(frozen=True)
class Trainer:
    """Everything one run is made of; `run()` is the loop."""

    updates: Updates
    validation: Sequence[Batch]
    config: TrainingConfig
    tracker: Tracker
    checkpoints: Checkpoints

    @property
    def state(self) -> TrainState:
        """What the steps move."""
        return self.updates.state

    def run(self) -> bool:
        """Train to `max_steps`, saving on the way; True when finished, False when stopped (Ctrl-C, SIGTERM).

        A rank that receives a signal to stop stops all of them after the same step. Raises `NonFiniteError`, on all
        ranks, before the optimizer step that would have used a non-finite loss or gradient.
        """
        total = self.config.max_steps
        with _stop_on_signals() as stop, progress("training", total, self.state.step) as advance:
            if self.state.step == 0:
                self._validate()
            while self.state.step < total and not any_rank(stop()):
                started = time.monotonic()
                values = self._step()
                values["seconds"] = time.monotonic() - started
                done = self.state.step
                if done % self.config.log_every == 0 or done == total:
                    self.tracker.log(done, "train", values)
                scores = None
                if done % self.config.validate_every == 0 or done == total:
                    scores = self._validate()
                if done % self.config.save_every == 0 or done == total:
                    self._save(scores)
                else:
                    self._complete(self.checkpoints.finish_if_written())
                advance(1, f"loss {values['loss']:.3f}")
            finished = self.state.step >= total
            if not finished and self.state.step % self.config.save_every:
                self._save()
            self._complete(self.checkpoints.finish())
        if not finished:
            console.print(f"stopped after step {self.state.step}; the same command resumes from there")
        return finished

    def _validate(self) -> dict[str, float] | None:
        if not self.validation:
            return None
        scores = self.updates.evaluate(self.validation)
        self.checkpoints.check(scores)
        self.tracker.log(self.state.step, "validation", scores)
        return scores

    def _step(self) -> dict[str, float]:
        try:
            return self.updates.step()
        except NonFiniteError:  # on all ranks: what is being written is the last that there is
            self._complete(self.checkpoints.finish())
            raise

    def _save(self, scores: dict[str, float] | None = None) -> None:
        self._complete(self.checkpoints.save(self.state, scores))

    def _complete(self, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            self.tracker.checkpoint(checkpoint)


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield `stop()`: True once Ctrl-C or SIGTERM came. A second Ctrl-C interrupts at once, but not one of several
    ranks, which would take the others' step with it.
    """
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        again = "" if ranks() > 1 else " (Ctrl-C again to stop at once)"
        if not received:
            console.print(f"{signal.Signals(number).name}: finishing this step, then saving{again}")
        received.append(number)
        if ranks() == 1:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
