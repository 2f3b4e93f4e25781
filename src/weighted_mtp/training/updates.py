"""The optimizer steps of a run. What each does is a function of the training state and the step's number alone."""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.data.stream import BatchStream
from weighted_mtp.errors import UserError
from weighted_mtp.losses.objective import Objective, Sums
from weighted_mtp.runtime.device import widened
from weighted_mtp.runtime.distributed import all_gather_objects, all_reduce_sum, is_first, rank, ranks
from weighted_mtp.runtime.sharding import free_root, reduce_gradients
from weighted_mtp.training.optim import OptimConfig, clip_gradients, prepare_groups, schedule
from weighted_mtp.training.state import TrainState


class NonFiniteError(UserError):
    """The loss or a gradient is NaN or infinite; nothing was updated."""


@dataclass(frozen=True)
class Updates:
    """What makes a step, and the state that it moves.

    max_steps  of the whole run, for the learning rate's schedule
    reports    folder for what a non-finite step leaves to look at
    """

    state: TrainState
    objective: Objective
    stream: BatchStream
    optim: OptimConfig
    max_steps: int
    device: torch.device
    forward_context: Callable[[], AbstractContextManager[object]]
    seed: int
    reports: Path
    reduce_every_microbatch: bool = False

    def step(self) -> dict[str, float]:
        """One optimizer step; returns what there is to log of it.

        Raises `NonFiniteError`, on all ranks, before a non-finite loss or gradient would be used.
        """
        state = self.state
        self._seed(0)
        state.model.train()
        batches = self.stream.at(state.step, rank(), ranks())
        factor = schedule(state.step, self.max_steps, self.optim)
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

    def evaluate(self, batches: Sequence[Batch]) -> dict[str, float]:
        """The objective on batches, which ranks share, without touching the objective's state."""
        self.state.model.eval()
        own = self.stream.share(batches, rank(), ranks())
        with torch.no_grad():
            items, _ = self.objective.prepare(self._to_device(own), self.state.objective)
            sums = [self._sums(item, batch) for item, batch in zip(items, own, strict=True)]
        free_root(self.state.model)
        return self.objective.summary(_divide(_over_ranks(sums)))

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
        for group in self.state.optimizer.param_groups:
            for parameter in group["params"]:
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
        file = self.reports / f"non-finite-step-{self.state.step}.json"
        report = {"step": self.state.step, "loss": str(loss), "grad_norm": str(norm)}
        if is_first():
            file.write_text(json.dumps({**report, "not_finite": suspects, "samples": samples}, indent=2) + "\n")
        raise NonFiniteError(
            f"step {self.state.step}: loss {loss}, gradient norm {norm}; stopped before the update. "
            f"{file} names the {len(samples)} samples; try a lower optim.lr or runtime.precision=fp32"
        )


@dataclass(frozen=True)
class _Total:
    """Sums over all microbatches of all ranks; of vectors, before their absolute values are taken."""

    loss: float
    count: float
    metrics: dict[str, tuple[Tensor, float]]


def _over_ranks(sums: Sequence[Sums]) -> _Total:
    """Add up microbatches, in fp64, then ranks, which all have the same metrics. One copy leaves the device."""
    flat = all_reduce_sum(torch.stack([_flat(s) for s in sums]).cpu().double().sum(0))
    names = list(sums[0].metrics)
    numerators = [sums[0].metrics[name][0] for name in names]
    sizes = [n.numel() for n in numerators]
    (loss, count, *counts), vectors = flat[: 2 + len(names)].tolist(), flat[2 + len(names) :].split(sizes)
    shaped = [vector.reshape(n.shape) for vector, n in zip(vectors, numerators, strict=True)]
    return _Total(loss, count, dict(zip(names, zip(shaped, counts, strict=True), strict=True)))


def _flat(sums: Sums) -> Tensor:
    """Loss, count, the metrics' denominators, then their numerators, as one vector."""
    numerators, denominators = [n for n, _ in sums.metrics.values()], [d for _, d in sums.metrics.values()]
    return torch.cat([widened(x.detach().reshape(-1)) for x in (sums.loss, sums.count, *denominators, *numerators)])


def _divide(total: _Total) -> dict[str, float]:
    """Loss and metrics: sums first, one division after.

    The loss of no target at all is 0; another metric that nothing was counted for is left out.
    """
    ratios = {name: float(n.abs().sum() if n.dim() else n) / d for name, (n, d) in total.metrics.items() if d}
    return {"loss": total.loss / total.count if total.count else 0.0, **ratios}
