"""Running mean and variance of the advantages: what whitening must remember from step to step.

They are kept in fp64 (where the device has it) whatever the model's precision: three sums per step cost nothing, and
they are the same to the last digits however a batch is split into microbatches. They stay on the device that the
advantages are on, so that no step waits for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from weighted_mtp.runtime.device import widened, widest
from weighted_mtp.value_weighting.base import ObjectiveState


@dataclass(frozen=True)
class Moments:
    """Moments over response tokens of the steps seen so far; all fields are scalars.

    steps   optimizer steps seen
    count   tokens seen
    mean    running mean of x
    square  running mean of x²
    """

    steps: Tensor
    count: Tensor
    mean: Tensor
    square: Tensor

    @staticmethod
    def initial() -> "Moments":
        return Moments(*torch.zeros(4, dtype=torch.float64).unbind())

    @staticmethod
    def of(state: ObjectiveState) -> "Moments":
        """The moments that `state()` gave."""
        return Moments(state["steps"], state["count"], state["mean"], state["square"])

    def state(self) -> ObjectiveState:
        return {name: getattr(self, name).clone() for name in ("steps", "count", "mean", "square")}

    def to(self, device: torch.device) -> "Moments":
        values = (getattr(self, f.name).to(widest(device)) for f in fields(self))
        return Moments(*(value.to(device, non_blocking=device.type == "cuda") for value in values))

    @property
    def std(self) -> Tensor:
        return (self.square - self.mean**2).clamp(min=0).sqrt()

    def updated(self, sums: Tensor, momentum: float, warmup_steps: int) -> "Moments":
        """The moments after a step whose whole batch has `sums` (3,): count, Σx, Σx², as `moment_sums` gives them.

        In the first `warmup_steps` all tokens seen count alike (cumulative); after that a step's own mean of x and of
        x² moves the running ones by `momentum` (EMA). Averaging x² and not the variance makes the running variance
        that of the mixture of steps in both phases. A step without response tokens changes nothing but `steps`.
        """
        n, total, squares = sums.unbind()
        count = self.count + n
        cumulative = (self.steps < warmup_steps) | (self.count == 0)
        share = torch.where(cumulative, n / count.clamp(min=1), momentum * (n > 0).to(n))
        return Moments(
            self.steps + 1,
            count,
            self.mean + share * (total / n.clamp(min=1) - self.mean),
            self.square + share * (squares / n.clamp(min=1) - self.square),
        )


def moment_sums(values: Sequence[Tensor]) -> Tensor:
    """Count, Σx and Σx² over all microbatches' values, (n,) float each: (3,), undivided, so that ranks can add."""
    x = widened(torch.cat(list(values)))
    return torch.stack([torch.full((), len(x), dtype=x.dtype, device=x.device), x.sum(), (x * x).sum()])
