"""Confidence as a weighting of its own: what `losses.mtp_loss` multiplies into weights, known before the loss.

Shapes: B batch, T time, H heads.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.value_weighting.base import ObjectiveState, TokenWeighting


class TimesConfidence:
    """Another weighting's weights times a power of the policy's probability of each target, (B, T, H).

    The loss does the same without a forward pass of its own (`loss.confidence`); this is for controls, which replace
    the product and must have it first. State: the wrapped weighting's. Where head k has no probability, in the first k
    columns, the factor is 1 and never looked at.
    """

    def __init__(
        self,
        inner: TokenWeighting,
        policy_ce: Callable[[Batch], Tensor],
        head: Literal["each_head", "first_head"],
        power: float,
    ) -> None:
        """
        policy_ce  batch → (B, T, H), cross-entropy of each head of the policy as it is
        head       whose probability: the predicting head's own, or head 1's for all
        """
        self.inner, self.policy_ce, self.head, self.power = inner, policy_ce, head, power

    def initial_state(self) -> ObjectiveState:
        return self.inner.initial_state()

    @torch.no_grad()
    def __call__(self, batches: Sequence[Batch], state: ObjectiveState) -> tuple[list[Tensor], ObjectiveState]:
        weights, state = self.inner(batches, state)
        return [self._times(w, batch) for w, batch in zip(weights, batches, strict=True)], state

    def _times(self, weights: Tensor, batch: Batch) -> Tensor:
        ce = self.policy_ce(batch).float()
        if self.head == "first_head":
            ce = ce[..., :1].expand_as(ce)
        return (-self.power * ce).exp() * (weights if weights.dim() == 3 else weights.unsqueeze(-1))
