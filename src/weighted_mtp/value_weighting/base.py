"""What a token weighting is: the interface that every method implements, and third parties may."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from weighted_mtp.data.batches import Batch

WeightingState = dict[str, Tensor]


class TokenWeighting(Protocol):
    """Gives every token of an optimizer step's batches its weight in the loss.

    It sees all microbatches of the step at once, because moments and quantiles belong to the whole batch, never to a
    microbatch: those of its own rank, to which `runtime.distributed` (`summed`, `gathered`) adds what the others have,
    on all ranks equally often. It is pure: what it must remember (running moments) goes in and comes out as `state`, is
    part of the training state, equal on all ranks, and is thrown away after validation, whose batches are weighted like
    a step's: by moments that have them in, mostly theirs where the run's own are of few steps.

    One that clips says between which weights by an attribute `bounds`; see `bounds_of`.
    """

    def initial_state(self) -> WeightingState:
        """The state before the first step; {} where nothing is remembered."""
        ...

    def __call__(self, batches: Sequence[Batch], state: WeightingState) -> tuple[list[Tensor], WeightingState]:
        """Weights of each batch, (B, T) or (B, T, H) indexed by the token they belong to, and the next state.

        Under `loss.alignment: target` entries outside the response mask are ignored. Under `source` the token that
        head k predicts from counts, up to k positions before the response: entries there are used, and should be 1
        where nothing is known.
        """
        ...


def bounds_of(weighting: TokenWeighting) -> tuple[float, float] | None:
    """Least and greatest weight that a weighting clips at, None where it does not say."""
    return getattr(weighting, "bounds", None)
