"""What the training loop minimises: the interface, and the policy's implementation of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.data.prompts import MARKS
from weighted_mtp.losses.acceptance import acceptance
from weighted_mtp.losses.mtp_loss import LossConfig, MTPSums, coefficients, mtp_loss
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.value_weighting.base import ObjectiveState, TokenWeighting, bounds_of

ROUNDING = 1e-6  # of weights in fp32, when they are compared with their bounds


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

    def initial_state(self) -> ObjectiveState:
        """What the method must remember between steps; part of the training state."""
        ...

    def prepare(self, batches: Sequence[Batch], state: ObjectiveState) -> tuple[Sequence[Any], ObjectiveState]:
        """Look at all microbatches of a step at once, without gradient; give the items that `sums` takes."""
        ...

    def sums(self, model: Any, item: Any) -> Sums:
        """The sums of one item, ready for backward."""
        ...

    def summary(self, metrics: dict[str, float]) -> dict[str, float]:
        """What is logged of a step's divided metrics: here belongs what is no ratio of sums, such as a deviation."""
        ...


@dataclass(frozen=True)
class WeightedBatch:
    """A microbatch with the weights of its tokens."""

    batch: Batch
    weights: Tensor


class PolicyObjective:
    """Weighted multi-token cross-entropy: `losses.mtp_loss` with the weights of a `TokenWeighting`."""

    def __init__(self, weighting: TokenWeighting, loss: LossConfig) -> None:
        self.weighting = weighting
        self.loss = loss

    def initial_state(self) -> ObjectiveState:
        return self.weighting.initial_state()

    def prepare(
        self, batches: Sequence[Batch], state: ObjectiveState
    ) -> tuple[Sequence[WeightedBatch], ObjectiveState]:
        weights, state = self.weighting(batches, state)
        return [WeightedBatch(batch, w) for batch, w in zip(batches, weights, strict=True)], state

    def sums(self, model: MTPForCausalLM, item: WeightedBatch) -> Sums:
        """The loss is weighted in training and unweighted otherwise: validations of different weightings compare.

        Metrics per head: `ce/headK` (unweighted), `weighted_ce/headK`, `weight/headK` (mean weight of a target), and,
        while the model is not in training, `acceptance/headK`. Over all heads: those of `_weight_metrics`.
        """
        batch = item.batch
        states = model.head_states(batch.input_ids, detach_extra=self.loss.detach_extra_heads)
        sums = mtp_loss(model, states, batch, item.weights, self.loss, MARKS["semantic"])
        metrics = {}
        for k in range(len(sums.tokens)):
            metrics[f"ce/head{k + 1}"] = (sums.ce[k], sums.tokens[k])
            metrics[f"weighted_ce/head{k + 1}"] = (sums.weighted_ce[k], sums.weight[k])
            metrics[f"weight/head{k + 1}"] = (sums.weight[k], sums.tokens[k])
        metrics |= self._weight_metrics(sums, item)
        if model.training:
            return Sums(sums.loss, sums.count, metrics)
        for k, counts in enumerate(acceptance(model, states, batch), start=2):
            metrics[f"acceptance/head{k}"] = counts
        c = sums.ce.new_tensor(coefficients(self.loss, len(states)))
        return Sums((c * sums.ce).sum(), (c * sums.tokens).sum(), metrics)

    def _weight_metrics(self, sums: MTPSums, item: WeightedBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """`weight/…`, over the weights of all heads' targets: their mean and mean square, the share of the weight that
        lies on semantic tokens beside these tokens' share; and, of a weighting that clips, how many it clipped.
        """
        total, tokens = sums.weight.sum(), sums.tokens.sum()
        metrics = {
            "weight/mean": (total, tokens),
            "weight/square": (sums.square.sum(), tokens),
            "weight/semantic_share": (sums.marked.sum(), total),
            "weight/semantic_token_share": (sums.marks.sum(), tokens),
        }
        if (bounds := bounds_of(self.weighting)) is not None:
            w = item.batch.at_response(item.weights)
            clipped = (w <= bounds[0] * (1 + ROUNDING)) | (w >= bounds[1] * (1 - ROUNDING))
            metrics["weight/clipped_share"] = (clipped.sum(), torch.full((), w.numel(), device=w.device))
        return metrics

    def summary(self, metrics: dict[str, float]) -> dict[str, float]:
        """`weight/std` and `weight/effective_share` (Kish's (Σw)² / Σw² as a share of the targets, 1 for uniform
        weights) instead of the mean square; semantic shares only of data whose semantic tokens are known.
        """
        found = dict(metrics)
        square = found.pop("weight/square", None)
        if square is not None:
            mean = found["weight/mean"]
            found["weight/std"] = max(0.0, square - mean**2) ** 0.5
            found["weight/effective_share"] = mean**2 / square if square else 0.0
        if not found.get("weight/semantic_token_share"):
            for name in ("weight/semantic_share", "weight/semantic_token_share"):
                found.pop(name, None)
        return found
