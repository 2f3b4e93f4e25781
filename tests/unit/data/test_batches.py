"""Token stores, the microbatches of an epoch, and their tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weighted_mtp.data.batches import TokenStore, build_store, collate, join, padding_share, plan_epoch, within
from weighted_mtp.data.prompts import Example, encode_solutions
from weighted_mtp.data.schema import Records
from weighted_mtp.errors import UserError

EXAMPLES = [
    ("a", Example([5, 6, 7], 1, b"\0\1\0")),
    ("b", Example([8, 9, 10, 11, 12], 3, b"\0\0\0\2\3")),
    ("c", Example([13, 14], 1, b"\0\0")),
]

plans = st.tuples(
    st.lists(st.integers(1, 300), min_size=1, max_size=200),
    st.integers(300, 3_000),
    st.integers(0, 2**32 - 1),
    st.integers(0, 50),
)


@given(plans)
@settings(deadline=None)
def test_an_epoch_has_each_sample_exactly_once(plan: tuple[list[int], int, int, int]) -> None:
    lengths, max_tokens, seed, epoch = plan
    batches = plan_epoch(np.array(lengths), max_tokens, seed, epoch)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))


@given(plans)
@settings(deadline=None)
def test_no_microbatch_exceeds_the_token_budget_or_is_empty(plan: tuple[list[int], int, int, int]) -> None:
    lengths, max_tokens, seed, epoch = np.array(plan[0]), *plan[1:]
    for rows in plan_epoch(lengths, max_tokens, seed, epoch):
        assert 0 < len(rows) * lengths[rows].max() <= max_tokens


def _lengths(number: int) -> np.ndarray:
    """As of programs with their prompts: log-normal with a long tail."""
    return np.clip(np.random.default_rng(0).lognormal(5.0, 0.5, number), 20, 1024).astype(np.int64)


def _same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_plan_is_a_function_of_seed_and_epoch() -> None:
    lengths = _lengths(500)
    assert _same(plan_epoch(lengths, 2048, 1, 2), plan_epoch(lengths.copy(), 2048, 1, 2))


@pytest.mark.parametrize(("seed", "epoch"), [(1, 3), (2, 2)])
def test_another_seed_or_epoch_gives_another_company(seed: int, epoch: int) -> None:
    lengths = _lengths(500)

    def companies(seed: int, epoch: int) -> set[frozenset[int]]:
        return {frozenset(rows.tolist()) for rows in plan_epoch(lengths, 2048, seed, epoch)}

    shared = companies(1, 2) & companies(seed, epoch)
    assert len(shared) < 0.25 * len(companies(1, 2))


def test_long_and_short_microbatches_are_mixed_over_the_epoch() -> None:
    lengths = _lengths(5_000)
    means = [lengths[rows].mean() for rows in plan_epoch(lengths, 2048, 0, 0)]
    position = np.arange(len(means))
    assert abs(np.corrcoef(position, means)[0, 1]) < 0.2


@pytest.mark.parametrize(("number", "max_tokens"), [(400, 2048), (20_000, 2048), (20_000, 8192)])
def test_padding_stays_under_five_percent_on_lengths_of_programs(number: int, max_tokens: int) -> None:
    lengths = _lengths(number)
    assert padding_share(lengths, plan_epoch(lengths, max_tokens, 0, 0)) < 0.05


def test_padding_stays_under_five_percent_on_micro(small_micro: dict[str, Records], micro_tokenizer) -> None:  # type: ignore[no-untyped-def]
    lengths = within(build_store(encode_solutions(micro_tokenizer, "plain", *small_micro["train"])), 512).lengths
    assert padding_share(lengths, plan_epoch(lengths, 2048, 0, 0)) < 0.05


def test_padding_share_counts_padding() -> None:
    assert padding_share(np.array([4, 2, 3]), [np.array([0, 1]), np.array([2])]) == pytest.approx(2 / 11)


def test_no_lengths_give_no_batches() -> None:
    assert plan_epoch(np.array([], dtype=np.int64), 100, 0, 0) == []


def test_a_sample_over_the_token_budget_is_refused() -> None:
    with pytest.raises(UserError, match="max_tokens 9 is less than the longest sample's 10 tokens"):
        plan_epoch(np.array([3, 10]), 9, 0, 0)


def rows_of(store: TokenStore) -> list[list[int]]:
    batches = [collate(store, np.array([row])) for row in range(len(store))]
    return [batch.input_ids[0].tolist() for batch in batches]


def test_a_store_holds_every_example(store: TokenStore) -> None:
    assert rows_of(store) == [example.input_ids for _, example in EXAMPLES]
    assert store.response_start.tolist() == [1, 3, 1]
    assert list(store.sample_ids) == ["a", "b", "c"]
    assert store.lengths.tolist() == [3, 5, 2]


def test_chosen_rows_are_a_store_of_their_own_in_their_order(store: TokenStore) -> None:
    chosen = store.at(np.array([2, 0])).at(np.array([1, 0]))
    assert rows_of(chosen) == [[5, 6, 7], [13, 14]]
    assert list(chosen.sample_ids) == ["a", "c"]


def test_rows_may_share_their_prompt() -> None:
    prompt, ones = np.zeros(2, np.int64), np.ones(2, np.int64)
    ids = np.array([7, 8, 9, 10], np.int32)
    store = TokenStore(ids, np.array([0, 1, 2, 3], np.uint8), prompt, np.array([3, 1]), ones, ones * 2, ["a", "b"])
    assert rows_of(store) == [[7, 10], [7, 8]]
    assert collate(store, np.array([0, 1])).marks.tolist() == [[0, 3], [0, 1]]


def test_dropping_leaves_out_the_long_and_counts_them(store: TokenStore) -> None:
    found = within(store, 4, "drop")
    assert (list(found.sample_ids), found.n_dropped, found.n_truncated) == (["a", "c"], 1, 0)


def test_truncating_cuts_the_long_and_counts_them(store: TokenStore) -> None:
    found = within(store, 4, "truncate")
    assert (found.lengths.tolist(), found.n_dropped, found.n_truncated) == ([3, 4, 2], 0, 1)
    assert rows_of(found)[1] == [8, 9, 10, 11]


def test_what_fits_is_left_as_it_is(store: TokenStore) -> None:
    assert within(store, 5, "drop") is store
    assert within(store, 5, "error").lengths.tolist() == [3, 5, 2]


def test_error_names_the_long_one(store: TokenStore) -> None:
    with pytest.raises(UserError, match="b has 5 tokens, more than max_length 4"):
        within(store, 4, "error")


def test_a_prompt_that_fills_max_length_is_named_and_not_cut(store: TokenStore) -> None:
    with pytest.raises(UserError, match=r"the prompt of b has 3 tokens, .* max_length 3"):
        within(store, 3, "truncate")


def test_nothing_left_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match="no sample to train on: the data set is empty"):
        build_store([])
    with pytest.raises(UserError, match="no sample to train on: all 1 are longer than max_length 4"):
        within(build_store(EXAMPLES[1:2]), 4)


@pytest.fixture
def store() -> TokenStore:
    return build_store(EXAMPLES)


def test_collate_pads_on_the_right_and_masks_prompt_and_padding(store: TokenStore) -> None:
    batch = collate(store, np.array([1, 2]))
    assert batch.input_ids.tolist() == [[8, 9, 10, 11, 12], [13, 14, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[True] * 5, [True, True, False, False, False]]
    assert batch.response_mask.tolist() == [[False] * 3 + [True] * 2, [False, True, False, False, False]]
    assert batch.sample_ids.tolist() == [1, 2]


def test_collate_gives_the_types_of_the_contract(store: TokenStore) -> None:
    batch = collate(store, np.array([0]))
    types = [tensor.dtype for tensor in (batch.input_ids, batch.attention_mask, batch.response_mask, batch.sample_ids)]
    assert types == [torch.int64, torch.bool, torch.bool, torch.int64]


def test_a_batch_moves_as_a_whole(store: TokenStore) -> None:
    batch = collate(store, np.array([0])).to("meta")
    assert {value.device.type for value in vars(batch).values() if isinstance(value, torch.Tensor)} == {"meta"}


def test_marks_stand_beside_their_tokens(store: TokenStore) -> None:
    assert collate(within(store, 4, "truncate"), np.array([1, 0])).marks.tolist() == [
        [0, 0, 0, 2],
        [0, 1, 0, 0],
    ]


def test_joined_stores_are_read_as_one() -> None:
    together = build_store([EXAMPLES[2], *EXAMPLES])
    joined = join([build_store(EXAMPLES[2:]), build_store(EXAMPLES)])
    rows = np.array([3, 0, 2, 1])
    assert list(joined.sample_ids) == ["c", "a", "b", "c"]
    for name, value in vars(collate(together, rows)).items():
        found = getattr(collate(joined, rows), name)
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value, name
    assert within(joined, 4).n_dropped == 1
