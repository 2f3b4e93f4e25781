"""Controls: weightings that know nothing, without which no claim about another is made.

Shapes: B batch, T time, H heads.

A weighting helps only if it beats `uniform` and its own `Shuffled` (the same weights on other tokens of the sample).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.runtime.distributed import all_gather
from weighted_mtp.value_weighting.base import ObjectiveState, TokenWeighting, bounds_of

_INNER = "inner."  # before the names of the wrapped weighting's state

Rows = Sequence[tuple[np.random.Generator, int]]
"""For each sample of a batch its random numbers, and how many response tokens it has."""
Places = NDArray[np.int64]
Picked = Callable[[Tensor, Rows], tuple[Tensor, list[Places]]]
"""Weights of a batch's response tokens (N,) or (N, H), rows → weights to take from, and the places to take per row."""


class Uniform:
    """Every token counts 1: the plain multi-token cross-entropy."""

    def initial_state(self) -> ObjectiveState:
        return {}

    def __call__(self, batches: Sequence[Batch], state: ObjectiveState) -> tuple[list[Tensor], ObjectiveState]:
        return [torch.ones_like(batch.response_mask, dtype=torch.float32) for batch in batches], state


class _Control(ABC):
    """Other weights for every response token, made from those of another weighting.

    All heads of a token move together. What is drawn is a function of (seed, step, sample id), so that it is the same
    however a batch is split. State: the step, and the wrapped weighting's state under `inner.`.
    """

    def __init__(self, inner: TokenWeighting, seed: int) -> None:
        self.inner, self.seed, self.bounds = inner, seed, bounds_of(inner)

    def initial_state(self) -> ObjectiveState:
        return _wrapped(torch.tensor(0), self.inner.initial_state())

    def __call__(self, batches: Sequence[Batch], state: ObjectiveState) -> tuple[list[Tensor], ObjectiveState]:
        step, inner_state = _unwrapped(state)
        weights, inner_state = self.inner(batches, inner_state)
        picked = self._picked(batches, weights)
        replaced = [w.clone() for w in weights]
        for batch, old, new in zip(batches, weights, replaced, strict=True):
            if batch.is_blank:
                continue
            rows = [(_generator(self.seed, step, s.sample_id), s.end - s.start) for s in batch.spans]
            pool, places = picked(batch.at_response(old), rows)
            new.flatten(0, 1)[batch.response_at] = pool[torch.from_numpy(np.concatenate(places)).to(pool.device)]
        return replaced, _wrapped(step + 1, inner_state)

    @abstractmethod
    def _picked(self, batches: Sequence[Batch], weights: Sequence[Tensor]) -> Picked:
        """How the tokens of one of the batches get theirs."""


@final
class Shuffled(_Control):
    """Another weighting's weights, each sample's own permuted over its response tokens, never over the prompt."""

    def _picked(self, batches: Sequence[Batch], weights: Sequence[Tensor]) -> Picked:
        def own(pool: Tensor, rows: Rows) -> tuple[Tensor, list[Places]]:
            starts = np.cumsum([0, *(n for _, n in rows)])
            return pool, [start + rng.permutation(n) for start, (rng, n) in zip(starts, rows, strict=False)]

        return own


@final
class RandomMatched(_Control):
    """Weights drawn, with replacement, from all response tokens' weights of another weighting in the step's batch, on
    all ranks, whose order is made independent of the split."""

    def _picked(self, batches: Sequence[Batch], weights: Sequence[Tensor]) -> Picked:
        pool = _pool(batches, weights)
        return lambda _, rows: (pool, [rng.integers(0, max(1, len(pool)), n) for rng, n in rows])


@final
class PositionMatched(_Control):
    """Weights drawn from the tokens at the same relative position of other samples of the step, on all ranks.

    Keeps what a weighting says of beginnings and ends of programs and nothing else. Token i of a response of n tokens
    draws one of the step's samples, of length m, and takes all heads' weights of its token ⌊(i + ½) m / n⌋.
    """

    def _picked(self, batches: Sequence[Batch], weights: Sequence[Tensor]) -> Picked:
        pool, lengths = _pool(batches, weights), _lengths(batches)
        starts = np.cumsum(lengths) - lengths

        def alike(rng: np.random.Generator, n: int) -> Places:
            donors = rng.integers(0, max(1, len(lengths)), n)
            relative = (np.arange(n) + 0.5) / max(1, n)
            return starts[donors] + (relative * lengths[donors]).astype(np.int64)

        return lambda _, rows: (pool, [alike(*row) for row in rows])


def _lengths(batches: Sequence[Batch]) -> NDArray[np.int64]:
    """Response lengths of all ranks' samples that have one, ordered by sample id: the samples of `_pool`."""
    own = [[s.sample_id, s.end - s.start] for batch in batches for s in batch.spans if s.end > s.start]
    everyones = torch.cat(all_gather(torch.tensor(own, dtype=torch.int64).reshape(-1, 2)))
    return everyones[torch.argsort(everyones[:, 0], stable=True), 1].numpy()


def _pool(batches: Sequence[Batch], weights: Sequence[Tensor]) -> Tensor:
    """Weights of all ranks' response tokens, (N,) or (N, H), ordered by sample id and position."""
    pool = torch.cat([batch.at_response(w) for batch, w in zip(batches, weights, strict=True)])
    owners = [batch.at_response(batch.sample_ids[:, None].expand_as(batch.response_mask)) for batch in batches]
    order = torch.argsort(torch.cat(all_gather(torch.cat(owners))), stable=True)
    return torch.cat(all_gather(pool))[order]


def _generator(seed: int, step: Tensor, sample_id: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(step), sample_id])


def _wrapped(step: Tensor, inner: ObjectiveState) -> ObjectiveState:
    return {"step": step, **{_INNER + name: value for name, value in inner.items()}}


def _unwrapped(state: ObjectiveState) -> tuple[Tensor, ObjectiveState]:
    inner = {name.removeprefix(_INNER): value for name, value in state.items() if name.startswith(_INNER)}
    return state["step"], inner
