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
from weighted_mtp.runtime.distributed import all_gather_objects, all_reduce_sum, any_rank, is_first, rank, ranks
from weighted_mtp.runtime.sharding import free_root, reduce_gradients
from weighted_mtp.training.optim import OptimConfig, clip_gradients, prepare_groups, schedule
from weighted_mtp.training.state import Checkpoints, TrainState
from weighted_mtp.training.tracking import Tracker


class TrainingConfig(Section):
    """How long, in what portions, and how often to look and save."""

    max_steps: int = Field(1000, ge=1)
    """Optimizer steps."""
    gradient_accumulation: int = Field(1, ge=1)
    """Microbatches an optimizer step, over all ranks; the gradient is divided once, over all of them. A step is the
    same on any number of ranks, of which this must be a multiple."""
    validate_every: int = Field(100, ge=1)
    """Steps between validations; there is always one before the first step and one after the last."""
    validation_batches: int | None = Field(None, ge=1)
    """Batches a validation; the whole split where not given."""
    save_every: int = Field(500, ge=1)
    save_total_limit: int = Field(2, ge=1)
    """Newest checkpoints that are kept; the best one is kept beside them."""
    save_lora_only: bool = False
    """Checkpoints hold adapters (and what else is trained) instead of a whole model, in PEFT's form."""
    upload_to: str | None = None
    """Folder of runs on another file system, such as `s3://bucket/runs`: checkpoints are copied there meanwhile."""
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
    reduce_every_microbatch: bool = False

    def run(self) -> bool:
        """Train to `max_steps`, saving on the way; True when finished, False when stopped (Ctrl-C, SIGTERM).

        A rank that receives a signal to stop stops all of them after the same step. Raises `NonFiniteError`, on all
        ranks,
        before the optimizer step that would have used a non-finite loss or gradient.
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
                advance(1, f"loss {values['loss']:.3f}")
            finished = self.state.step >= total
            if not finished and self.state.step % self.config.save_every:
                self._save()
        if not finished:
            console.print(f"stopped after step {self.state.step}; the same command resumes from there")
        return finished

    def evaluate(self) -> dict[str, float]:
        """The objective on the validation batches of all ranks, without touching the objective's state."""
        self.state.model.eval()
        own = self.stream.share(self.validation, rank(), ranks())
        with torch.no_grad():
            items, _ = self.objective.prepare(self._to_device(own), self.state.objective)
            sums = [self._sums(item, batch) for item, batch in zip(items, own, strict=True)]
        free_root(self.state.model)
        return self.objective.summary(_divide(_over_ranks(sums)))

    def _step(self) -> dict[str, float]:
        state = self.state
        self._seed(0)
        state.model.train()
        batches = self.stream.at(state.step, rank(), ranks())
        factor = schedule(state.step, self.config.max_steps, self.optim)
        items, objective_state = self.objective.prepare(self._to_device(batches), state.objective)
        own = []
        for number, (item, batch) in enumerate(zip(items, batches, strict=True)):
            self._seed(number * ranks() + rank())
            part = self._sums(item, batch)
            reduce_gradients(state.model, self.reduce_every_microbatch or number == len(items) - 1)
            part.loss.backward()
            own.append(Sums(part.loss.detach(), part.count, part.metrics))
        total = _over_ranks(own)
        self._divide_gradients(total.count)
        rates = prepare_groups(state.optimizer, state.step, factor)
        norms = clip_gradients(state.optimizer, self.optim.max_grad_norm)
        values = self.objective.summary(_divide(total))
        if not (math.isfinite(values["loss"]) and math.isfinite(norms["grad_norm"])):
            self._refuse(values["loss"], norms["grad_norm"], own, batches)
        state.optimizer.step()
        state.optimizer.zero_grad()  # now, so that neither critics nor checkpoints hold gradients
        state.objective = objective_state
        state.step += 1
        tokens = sum(int(batch.response_mask.sum()) for batch in batches)
        return {
            **values,
            **norms,
            **rates,
            "response_tokens": int(all_reduce_sum(torch.tensor(tokens))),
            "epoch": self.stream.epoch_of(state.step),
        }

    def _seed(self, microbatch: int) -> None:
        """Dropout is a function of (seed, step, microbatch), whichever rank computes it."""
        torch.manual_seed(self.seed * 1_000_003 + self.state.step + (microbatch << 40))

    def _sums(self, item: object, batch: Batch) -> Sums:
        with self.forward_context():
            sums = self.objective.sums(self.state.model, item)
        return sums.nothing() if batch.is_blank else sums

    def _to_device(self, batches: Sequence[Batch]) -> list[Batch]:
        return [batch.to(self.device) for batch in batches]

    def _divide_gradients(self, count: float) -> None:
        """The one division: by the count of all microbatches of the step. A step without targets leaves zeros."""
        for parameter in _parameters(self.state.optimizer):
            if parameter.grad is not None:
                parameter.grad /= max(count, torch.finfo(torch.float32).tiny)

    def _refuse(self, loss: float, norm: float, own: Sequence[Sums], batches: Sequence[Batch]) -> None:
        """Stop all ranks before the update, with the samples of the step; first those whose own loss is not finite."""
        names = [
            ([self.stream.store.sample_ids[row] for row in batch.sample_ids.tolist()], math.isfinite(float(sums.loss)))
            for batch, sums in zip(batches, own, strict=True)
            if not batch.is_blank
        ]
        everyones = [batch for of_rank in all_gather_objects(names) for batch in of_rank]
        samples = [name for batch, _ in everyones for name in batch]
        suspects = [name for batch, finite in everyones if not finite for name in batch]
        file = self.tracker.run.path / f"non-finite-step-{self.state.step}.json"
        report = {"step": self.state.step, "loss": str(loss), "grad_norm": str(norm)}
        if is_first():
            file.write_text(json.dumps({**report, "not_finite": suspects, "samples": samples}, indent=2) + "\n")
        raise NonFiniteError(
            f"step {self.state.step}: loss {loss}, gradient norm {norm}; stopped before the update. "
            f"{file} names the {len(samples)} samples; try a lower optim.lr or runtime.precision=fp32"
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


@dataclass(frozen=True)
class _Total:
    """Sums over all microbatches of all ranks; of vectors, before their absolute values are taken."""

    loss: float
    count: float
    metrics: dict[str, tuple[Tensor, float]]


def _over_ranks(sums: Sequence[Sums]) -> _Total:
    """Add up microbatches, in fp64, then ranks, which all have the same metrics. One copy leaves the device."""
    flat = all_reduce_sum(torch.stack([_flat(s) for s in sums]).to("cpu", torch.float64).sum(0))
    names = list(sums[0].metrics)
    numerators = [sums[0].metrics[name][0] for name in names]
    sizes = [n.numel() for n in numerators]
    (loss, count, *counts), vectors = flat[: 2 + len(names)].tolist(), flat[2 + len(names) :].split(sizes)
    shaped = [vector.reshape(n.shape) for vector, n in zip(vectors, numerators, strict=True)]
    return _Total(loss, count, dict(zip(names, zip(shaped, counts, strict=True), strict=True)))


def _flat(sums: Sums) -> Tensor:
    """Loss, count, the metrics' denominators, then their numerators, as one vector."""
    numerators, denominators = [n for n, _ in sums.metrics.values()], [d for _, d in sums.metrics.values()]
    return torch.cat([x.detach().reshape(-1).double() for x in (sums.loss, sums.count, *denominators, *numerators)])


def _divide(total: _Total) -> dict[str, float]:
    """Loss and metrics: sums first, one division after.

    The loss of no target at all is 0; another metric that nothing was counted for is left out.
    """
    ratios = {name: float(n.abs().sum() if n.dim() else n) / d for name, (n, d) in total.metrics.items() if d}
    return {"loss": total.loss / total.count if total.count else 0.0, **ratios}


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
