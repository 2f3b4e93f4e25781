"""What the training loop minimises: the interface, and the policy's implementation of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.losses.mtp import LossConfig, mtp_loss
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.value_weighting.base import TokenWeighting, WeightingState


@dataclass(frozen=True)
class Sums:
    """What one microbatch adds to an optimizer step; the loop adds these up and divides once.

    loss     scalar with gradient, a sum
    count    scalar: what the summed loss is divided by
    metrics  name → (numerator, denominator), scalars without gradient
    """

    loss: Tensor
    count: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Objective(Protocol):
    """The loop's only view of a method: it knows nothing of heads, critics or weights."""

    def initial_state(self) -> WeightingState:
        """What the method must remember between steps; part of the training state."""
        ...

    def prepare(self, batches: Sequence[Batch], state: WeightingState) -> tuple[Sequence[Any], WeightingState]:
        """Look at all microbatches of a step at once, without gradient; give the items that `sums` takes."""
        ...

    def sums(self, model: Any, item: Any) -> Sums:
        """The sums of one item, ready for backward."""
        ...


class PolicyObjective:
    """Weighted multi-token cross-entropy: `losses.mtp` with the weights of a `TokenWeighting`."""

    def __init__(self, weighting: TokenWeighting, loss: LossConfig) -> None:
        self.weighting = weighting
        self.loss = loss

    def initial_state(self) -> WeightingState:
        return self.weighting.initial_state()

    def prepare(
        self, batches: Sequence[Batch], state: WeightingState
    ) -> tuple[Sequence[tuple[Batch, Tensor]], WeightingState]:
        weights, state = self.weighting(batches, state)
        return list(zip(batches, weights, strict=True)), state

    def sums(self, model: MTPForCausalLM, item: tuple[Batch, Tensor]) -> Sums:
        """Per head: `ce/headK` (unweighted), `weighted_ce/headK`, `weight/headK` (mean weight of a target)."""
        batch, weights = item
        sums = mtp_loss(model, batch.input_ids, batch.attention_mask, batch.response_mask, weights, self.loss)
        metrics = {}
        for k in range(len(sums.tokens)):
            metrics[f"ce/head{k + 1}"] = (sums.ce[k], sums.tokens[k])
            metrics[f"weighted_ce/head{k + 1}"] = (sums.weighted_ce[k], sums.weight[k])
            metrics[f"weight/head{k + 1}"] = (sums.weight[k], sums.tokens[k])
        return Sums(sums.loss, sums.count, metrics)
