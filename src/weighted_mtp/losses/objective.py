"""What the training loop minimises: the interface, and the policy's implementation of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, Protocol

import torch
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.data.prompts import MARKS
from weighted_mtp.losses.acceptance import acceptance
from weighted_mtp.losses.mtp import LossConfig, mtp_loss
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.value_weighting.base import TokenWeighting, WeightingState, bounds_of
from weighted_mtp.value_weighting.metrics import WeightSums


@dataclass(frozen=True)
class Sums:
    """What one microbatch adds to an optimizer step; the loop adds these up and divides once.

    loss     scalar with gradient, a sum
    count    scalar: what the summed loss is divided by
    metrics  name → (numerator, denominator), scalars without gradient; of a numerator (n,), such as one of calibration
             bins, the absolute values are added up, after the sum over microbatches
    """

    loss: Tensor
    count: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def nothing(self) -> "Sums":
        """The same times 0, of a microbatch that only keeps step with other ranks'; backward runs and adds zeros."""
        metrics = {name: (torch.zeros_like(n), torch.zeros_like(d)) for name, (n, d) in self.metrics.items()}
        return Sums(self.loss * 0.0, torch.zeros_like(self.count), metrics)


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


@dataclass(frozen=True)
class WeightedBatch:
    """A microbatch with its weights, and what is said of the weights of the whole step."""

    batch: Batch
    weights: Tensor
    statistics: dict[str, float]


class PolicyObjective:
    """Weighted multi-token cross-entropy: `losses.mtp` with the weights of a `TokenWeighting`."""

    def __init__(self, weighting: TokenWeighting, loss: LossConfig) -> None:
        self.weighting = weighting
        self.loss = loss

    def initial_state(self) -> WeightingState:
        return self.weighting.initial_state()

    def prepare(
        self, batches: Sequence[Batch], state: WeightingState
    ) -> tuple[Sequence[WeightedBatch], WeightingState]:
        weights, state = self.weighting(batches, state)
        statistics = weight_statistics(batches, weights, bounds_of(self.weighting))
        return [WeightedBatch(batch, w, statistics) for batch, w in zip(batches, weights, strict=True)], state

    def sums(self, model: MTPForCausalLM, item: WeightedBatch) -> Sums:
        """Per head: `ce/headK` (unweighted), `weighted_ce/headK`, `weight/headK` (mean weight of a target), and, while
        the model is not in training, `acceptance/headK`; and the step's `weight_statistics`.
        """
        batch = item.batch
        states = model.head_states(batch.input_ids, batch.attention_mask, self.loss.detach_extra_heads)
        sums = mtp_loss(model, states, batch.input_ids, batch.response_mask, item.weights, self.loss)
        metrics = {}
        for k in range(len(sums.tokens)):
            metrics[f"ce/head{k + 1}"] = (sums.ce[k], sums.tokens[k])
            metrics[f"weighted_ce/head{k + 1}"] = (sums.weighted_ce[k], sums.weight[k])
            metrics[f"weight/head{k + 1}"] = (sums.weight[k], sums.tokens[k])
        if not model.training:
            for k, counts in enumerate(acceptance(model, states, batch.response_mask), start=2):
                metrics[f"acceptance/head{k}"] = counts
        # Every microbatch of the step says the same, so their mean is it.
        one = torch.ones((), dtype=torch.float64)
        metrics |= {name: (value * one, one) for name, value in item.statistics.items()}
        return Sums(sums.loss, sums.count, metrics)


def weight_statistics(
    batches: Sequence[Batch], weights: Sequence[Tensor], bounds: tuple[float, float] | None
) -> dict[str, float]:
    """Of the response tokens' weights of a whole step, over all ranks: `weight/…` mean, std and effective share of the
    tokens, the share that lies on the bounds, and that of the weight on semantic tokens beside these tokens' share.

    They are no ratios of sums over microbatches, so they are taken here. What has no meaning is left out: the share
    on the bounds without bounds, the semantic shares where no token is known to be semantic, everything for a step
    without response.
    """
    semantic = MARKS["semantic"]
    parts = [
        WeightSums.of(w, batch.response_mask, batch.marks & semantic > 0, bounds)
        for batch, w in zip(batches, weights, strict=True)
    ]
    sums = reduce(add, parts).over_ranks()
    statistics = {"mean": sums.mean, "std": sums.std, "effective_share": sums.effective_share}
    if bounds is not None:
        statistics["clipped_share"] = sums.clipped_share
    if sums.semantic_count:
        statistics |= {"semantic_share": sums.semantic_share, "semantic_token_share": sums.semantic_token_share}
    return {f"weight/{name}": value for name, value in statistics.items() if not math.isnan(value)}
