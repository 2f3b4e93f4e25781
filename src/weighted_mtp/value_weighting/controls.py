"""Controls: weightings that know nothing, without which no claim about another is made."""

from collections.abc import Sequence

import torch
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.value_weighting.base import WeightingState


class Uniform:
    """Every token counts 1: the plain multi-token cross-entropy."""

    def initial_state(self) -> WeightingState:
        return {}

    def __call__(self, batches: Sequence[Batch], state: WeightingState) -> tuple[list[Tensor], WeightingState]:
        return [torch.ones_like(batch.response_mask, dtype=torch.float32) for batch in batches], state
