"""The only training loop. What is trained, on what and how it is weighted are the objects it is given."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from weighted_mtp.config import Section
from weighted_mtp.data.batches import Batch
from weighted_mtp.data.stream import BatchStream
from weighted_mtp.errors import UserError
from weighted_mtp.losses.objective import Objective, Sums
from weighted_mtp.progress import console, progress
from weighted_mtp.training.optim import OptimConfig, prepare_groups, schedule
from weighted_mtp.training.state import Checkpoints, TrainState
from weighted_mtp.training.tracking import Tracker


class TrainingConfig(Section):
    """How long, in what portions, and how often to look and save."""

    max_steps: int = Field(1000, ge=1)
    """Optimizer steps."""
    gradient_accumulation: int = Field(1, ge=1)
    """Microbatches an optimizer step; the gradient is divided once, over all of them."""
    validate_every: int = Field(100, ge=1)
    """Steps between validations; there is always one before the first step and one after the last."""
    validation_batches: int | None = Field(None, ge=1)
    """Batches a validation; the whole split where not given."""
    save_every: int = Field(500, ge=1)
    save_total_limit: int = Field(2, ge=1)
    """Newest checkpoints that are kept; the best one is kept beside them."""
    save_lora_only: bool = False
    """Checkpoints hold adapters (and what else is trained) instead of a whole model, in PEFT's form."""
    best_metric: str | None = None
    """A validation metric, such as `loss`: the checkpoint where it is best is kept, as `checkpoints/best`."""
    best_mode: Literal["min", "max"] = "min"
    """Whether the lowest or the highest is best."""
    log_every: int = Field(1, ge=1)
    """Steps between records of `metrics.jsonl`; a record holds its own step's values, not an average."""

    @model_validator(mode="after")
    def _best_is_of_something(self) -> "TrainingConfig":
        if self.best_metric is None and self.best_mode != "min":
            raise ValueError(f"best_mode={self.best_mode} has no effect without best_metric: give one, such as loss")
        return self


class NonFiniteError(UserError):
    """The loss or a gradient is NaN or infinite; nothing was updated."""


@dataclass(frozen=True)
class Trainer:
    """Everything one run is made of; `run()` is the loop."""

    state: TrainState
    objective: Objective
    stream: BatchStream
    validation: Sequence[Batch]
    config: TrainingConfig
    optim: OptimConfig
    device: torch.device
    forward_context: Callable[[], AbstractContextManager[object]]
    tracker: Tracker
    checkpoints: Checkpoints
    seed: int

    def run(self) -> bool:
        """Train to `max_steps`, saving on the way; True when finished, False when asked to stop (Ctrl-C, SIGTERM).

        Raises `NonFiniteError` before the optimizer step that would have used a non-finite loss or gradient.
        """
        total = self.config.max_steps
        with _stop_on_signals() as stop, progress("training", total, self.state.step) as advance:
            if self.state.step == 0:
                self._validate()
            while self.state.step < total and not stop():
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
                advance(1, f"loss {values['loss']:.3f}")
            finished = self.state.step >= total
            if not finished and self.state.step % self.config.save_every:
                self._save()
        if not finished:
            console.print(f"stopped after step {self.state.step}; the same command goes on from there")
        return finished

    def evaluate(self) -> dict[str, float]:
        """The objective on the validation batches, without touching the objective's state."""
        self.state.model.eval()
        with torch.no_grad():
            items, _ = self.objective.prepare(self._to_device(self.validation), self.state.objective)
            sums = [self._sums(item) for item in items]
        return _divide(sums)

    def _step(self) -> dict[str, float]:
        state = self.state
        torch.manual_seed(self.seed * 1_000_003 + state.step)  # dropout is a function of (seed, step)
        state.model.train()
        batches = self.stream.at(state.step)
        factor = schedule(state.step, self.config.max_steps, self.optim)
        items, objective_state = self.objective.prepare(self._to_device(batches), state.objective)
        state.optimizer.zero_grad()
        sums = []
        for item in items:
            part = self._sums(item)
            part.loss.backward()
            sums.append(Sums(part.loss.detach(), part.count, part.metrics))
        self._divide_gradients(sum(float(s.count) for s in sums))
        prepare_groups(state.optimizer, state.step, factor)
        norm = nn.utils.clip_grad_norm_(_parameters(state.optimizer), self.optim.max_grad_norm)
        values = _divide(sums)
        self._stop_if_not_finite(values["loss"], norm, batches)
        state.optimizer.step()
        state.objective = objective_state
        state.step += 1
        tokens = sum(int(batch.response_mask.sum()) for batch in batches)
        return {
            **values,
            "grad_norm": float(norm),
            "lr": self.optim.lr * factor,
            "response_tokens": tokens,
            "epoch": self.stream.epoch_of(state.step),
        }

    def _sums(self, item: object) -> Sums:
        with self.forward_context():
            return self.objective.sums(self.state.model, item)

    def _to_device(self, batches: Sequence[Batch]) -> list[Batch]:
        return [batch.to(self.device) for batch in batches]

    def _divide_gradients(self, count: float) -> None:
        """The one division: by the count of all microbatches of the step. A step without targets leaves zeros."""
        for parameter in _parameters(self.state.optimizer):
            if parameter.grad is not None:
                parameter.grad /= max(count, torch.finfo(torch.float32).tiny)

    def _stop_if_not_finite(self, loss: float, norm: Tensor, batches: Sequence[Batch]) -> None:
        if math.isfinite(loss) and math.isfinite(float(norm)):
            return
        names = [self.stream.store.sample_ids[row] for batch in batches for row in batch.sample_ids.tolist()]
        file = self.tracker.run.path / f"non-finite-step-{self.state.step}.json"
        report = {"step": self.state.step, "loss": str(loss), "grad_norm": str(float(norm)), "samples": names}
        file.write_text(json.dumps(report, indent=2) + "\n")
        raise NonFiniteError(
            f"step {self.state.step}: loss {loss}, gradient norm {float(norm)}; stopped before the update. "
            f"{file} names the {len(names)} samples; try a lower optim.lr or runtime.precision=fp32"
        )

    def _validate(self) -> dict[str, float] | None:
        if not self.validation:
            return None
        scores = self.evaluate()
        self.checkpoints.check(scores)
        self.tracker.log(self.state.step, "validation", scores)
        return scores

    def _save(self, scores: dict[str, float] | None = None) -> None:
        self.tracker.checkpoint(self.checkpoints.save(self.state, scores))


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _divide(sums: Sequence[Sums]) -> dict[str, float]:
    """Loss and metrics over several batches: sums first, one division after.

    The loss of no target at all is 0; another metric that nothing was counted for is left out.
    """
    ratios = {}
    for name in sums[0].metrics:
        parts = [s.metrics[name] for s in sums]
        ratios[name] = (_total([n for n, _ in parts]), sum(float(d) for _, d in parts))
    total, count = sum(float(s.loss) for s in sums), sum(float(s.count) for s in sums)
    loss = total / count if count else 0.0
    return {"loss": loss, **{name: n / d for name, (n, d) in ratios.items() if d}}


def _total(numerators: Sequence[Tensor]) -> float:
    """Their sum, in fp64; of vectors, the sum's absolute values added up."""
    total = torch.stack([n.detach().to("cpu", torch.float64) for n in numerators]).sum(0)
    return float(total.abs().sum() if total.dim() else total)


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield `stop()`: True once Ctrl-C or SIGTERM came. A second Ctrl-C interrupts at once."""
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        console.print(f"{signal.Signals(number).name}: finishing this step, then saving (Ctrl-C again to stop at once)")

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
