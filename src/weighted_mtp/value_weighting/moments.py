"""Running mean and variance of the advantages: what whitening must remember from step to step.

They live on the CPU in fp64 whatever the model's device and precision: three sums a step cost nothing, and they are
the same to the last digits however a batch is split into microbatches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weighted_mtp.value_weighting.base import WeightingState


@dataclass(frozen=True)
class Moments:
    """Moments over response tokens of the steps seen so far; all fields are fp64 scalars.

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
    def of(state: WeightingState) -> "Moments":
        """The moments that `state()` gave."""
        return Moments(state["steps"], state["count"], state["mean"], state["square"])

    def state(self) -> WeightingState:
        return {name: getattr(self, name).clone() for name in ("steps", "count", "mean", "square")}

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
        cumulative = bool(self.steps < warmup_steps) or not self.count
        share = n / count.clamp(min=1) if cumulative else momentum * (n > 0).double()
        return Moments(
            self.steps + 1,
            count,
            self.mean + share * (total / n.clamp(min=1) - self.mean),
            self.square + share * (squares / n.clamp(min=1) - self.square),
        )


def moment_sums(values: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """Count, Σx and Σx² over the masked entries of all microbatches, (3,) fp64 on the CPU.

    values, masks  (B, T) each, float and bool; T differs between microbatches

    Sums and count are apart and undivided, so that ranks can add theirs up.
    """
    x = torch.cat([v[m].to("cpu", torch.float64) for v, m in zip(values, masks, strict=True)])
    return torch.stack([torch.tensor(len(x), dtype=torch.float64), x.sum(), (x * x).sum()])
