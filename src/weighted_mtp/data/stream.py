"""The endless order of training batches: what step s sees is a function of only (seed, s), whatever ranks share it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weighted_mtp.data.batches import PADDING, Batch, TokenStore, blank_batch, collate, padding_share, plan_epoch


class BatchStream:
    """Microbatches of every optimizer step, epoch after epoch, each sample once per epoch.

    Any step can be computed without having seen the ones before, so a resumed run needs nothing but its step.
    """

    def __init__(
        self,
        store: TokenStore,
        max_tokens: int,
        accumulation: int,
        seed: int,
        together: NDArray[np.int64] | None = None,
        pad_id: int = PADDING,
    ) -> None:
        """
        max_tokens    padded tokens of a microbatch
        accumulation  microbatches of an optimizer step, over all ranks
        together      (N, width) rows of the store that form one sample, such as (correct, incorrect) pairs: they stand
                      in a microbatch one after the other; where not given, every row is a sample of its own
        """
        self.store, self.max_tokens, self.accumulation = store, max_tokens, accumulation
        self.seed, self.pad_id = seed, pad_id
        self.together = np.arange(len(store))[:, None] if together is None else together
        self._epoch, self._first_step = 0, 0
        self._plan = self._plan_of(0)

    def at(self, step: int, rank: int = 0, ranks: int = 1) -> list[Batch]:
        """A rank's microbatches of 0-based `step`: one in `ranks` of its `accumulation`, or of an epoch's remainder.

        Ranks get equally many: if a remainder cannot be shared evenly, some get blank ones.
        """
        self._seek(step)
        start = (step - self._first_step) * self.accumulation
        chosen = self._plan[start : start + self.accumulation]
        own = [collate(self.store, rows, self.pad_id) for rows in chosen[rank::ranks]]
        return [*own, *self._blanks(len(chosen), len(own), ranks)]

    def share(self, batches: Sequence[Batch], rank: int, ranks: int) -> list[Batch]:
        """A rank's share of other batches, such as a validation's, dealt as `at` deals a step's."""
        own = batches[rank::ranks]
        return [*own, *self._blanks(len(batches), len(own), ranks)]

    def _blanks(self, dealt: int, own: int, ranks: int) -> list[Batch]:
        return [blank_batch(self.together.shape[1], self.pad_id)] * (-(-dealt // ranks) - own)

    def epoch_of(self, step: int) -> float:
        """Epochs seen when `step` begins."""
        self._seek(step)
        return self._epoch + (step - self._first_step) / self._steps()

    def steps_per_epoch(self) -> int:
        """Steps of the current epoch; epochs differ by a step or two, as each cuts its batches again."""
        return self._steps()

    def first(self, n: int | None = None) -> list[Batch]:
        """The first `n` microbatches of epoch 0, or all of them: what a validation looks at."""
        return [collate(self.store, rows, self.pad_id) for rows in self._plan_of(0)[:n]]

    def padding_share(self) -> float:
        """Share of padding among the positions that the current epoch computes on."""
        return padding_share(self.store.lengths, self._plan)

    def _plan_of(self, epoch: int) -> list[NDArray[np.int64]]:
        padded = self.together.shape[1] * self.store.lengths[self.together].max(axis=1)
        return [self.together[chosen].ravel() for chosen in plan_epoch(padded, self.max_tokens, self.seed, epoch)]

    def _steps(self) -> int:
        return -(-len(self._plan) // self.accumulation)

    def _seek(self, step: int) -> None:
        if step < self._first_step:
            self._epoch, self._first_step = 0, 0
            self._plan = self._plan_of(0)
        while step >= self._first_step + self._steps():
            self._first_step += self._steps()
            self._epoch += 1
            self._plan = self._plan_of(self._epoch)
