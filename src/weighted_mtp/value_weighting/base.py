"""What a token weighting is: the interface that every method implements, and third parties may."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from weighted_mtp.data.batches import Batch

ObjectiveState = dict[str, Tensor]


class TokenWeighting(Protocol):
    """Gives every token of an optimizer step's batches its weight in the loss.

    It sees all microbatches of the step at once, because moments and quantiles belong to the whole batch, never to a
    microbatch. Those are its own rank's; what the other ranks have comes from `all_reduce_sum` and `all_gather` of
    `runtime.distributed`, which all ranks must call equally often.

    It is pure. What it must remember (running moments) goes in and comes out as `state`, which is part of the training
    state and equal on all ranks. Validation batches are weighted in the same way, by moments that they have updated,
    and the state that results is discarded.

    A weighting that clips states its limits in an attribute `bounds`; see `bounds_of`.
    """

    def initial_state(self) -> ObjectiveState:
        """The state before the first step; {} if nothing is remembered."""
        ...

    def __call__(self, batches: Sequence[Batch], state: ObjectiveState) -> tuple[list[Tensor], ObjectiveState]:
        """Weights of each batch, (B, T) or (B, T, H) indexed by the token they belong to, and the next state.

        Under `loss.alignment: target` entries outside the response mask are ignored. Under `source` the token that
        head k predicts from counts, up to k positions before the response: entries there are used, and should be 1
        if nothing is known.
        """
        ...


def bounds_of(weighting: TokenWeighting) -> tuple[float, float] | None:
    """Least and greatest weight that a weighting clips at, None if it does not say."""
    return getattr(weighting, "bounds", None)
