"""The order of batches: samples that belong together stay together."""

import numpy as np
import pytest
from numpy.typing import NDArray

from weighted_mtp.data.batches import TokenStore
from weighted_mtp.data.stream import BatchStream


def store_of(lengths: NDArray[np.int64]) -> TokenStore:
    total = int(lengths.sum())
    ids, marks = np.arange(total, dtype=np.int32), np.zeros(total, np.uint8)
    return TokenStore.contiguous(ids, marks, np.ones(len(lengths), int), lengths, list(map(str, range(len(lengths)))))


LENGTHS = np.random.default_rng(0).integers(3, 30, 60)
PAIRS = np.random.default_rng(1).permutation(60)[:40].reshape(20, 2)


def test_pairs_stand_one_after_the_other_and_each_once_an_epoch() -> None:
    stream = BatchStream(store_of(LENGTHS), 200, 1, seed=0, together=PAIRS)
    batches = stream.first()
    seen = [tuple(pair) for batch in batches for pair in batch.sample_ids.reshape(-1, 2).tolist()]
    assert sorted(seen) == sorted(map(tuple, PAIRS.tolist()))
    assert max(batch.input_ids.numel() for batch in batches) <= 200


def test_the_padding_of_pairs_is_that_of_their_batches() -> None:
    stream = BatchStream(store_of(LENGTHS), 200, 1, seed=0, together=PAIRS)
    masks = [batch.attention_mask for batch in stream.first()]
    real = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    assert np.isclose(stream.padding_share(), 1 - real)


def test_the_first_batches_are_those_of_epoch_0_whatever_was_asked_before() -> None:
    stream = BatchStream(store_of(LENGTHS), 100, 2, seed=3)
    first = [batch.sample_ids.tolist() for batch in stream.first(3)]
    stream.at(40)
    assert [batch.sample_ids.tolist() for batch in stream.first(3)] == first
    assert first[:2] == [batch.sample_ids.tolist() for batch in stream.at(0)]


@pytest.mark.parametrize("together", [None, PAIRS], ids=["samples", "pairs"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_share_every_step_and_each_sample_is_one_ranks_once_an_epoch(
    ranks: int, together: NDArray[np.int64] | None
) -> None:
    stream = BatchStream(store_of(LENGTHS), 100, 12, seed=5, together=together)
    steps, seen, blanks = stream.steps_per_epoch(), [], 0
    for step in range(steps):
        shares = [stream.at(step, rank, ranks) for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1
        real = [[batch.sample_ids.tolist() for batch in share if not batch.is_blank] for share in shares]
        blanks += sum(batch.is_blank for share in shares for batch in share)
        dealt = [rows for number in range(len(shares[0])) for share in real for rows in share[number : number + 1]]
        assert dealt == [batch.sample_ids.tolist() for batch in stream.at(step)]
        seen += [row for rows in dealt for row in rows]
    assert sorted(seen) == sorted((np.arange(60) if together is None else together).ravel().tolist())
    assert blanks == -len(stream.first()) % 12 % ranks
