"""What is sampled keeps every promise of its configuration, is a function of the seed, and tells nothing by lengths."""

from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighted_mtp.data.index import SolutionIndex
from weighted_mtp.data.sampling import (
    PairConfig,
    Pairs,
    SampleConfig,
    _permuted,
    _quota,
    sample_pairs,
    sample_solutions,
)
from weighted_mtp.errors import UserError
from weighted_mtp.section import validated

Problem = tuple[int, list[tuple[bool, int]]]  # difficulty; (is_correct, length) of each solution


def index_of(problems: list[Problem]) -> SolutionIndex:
    rows = [(row, *solution) for row, (_, solutions) in enumerate(problems) for solution in solutions]
    problem, is_correct, length = zip(*rows, strict=True) if rows else ((), (), ())
    return SolutionIndex(
        np.array(problem, np.int32),
        np.array(is_correct, bool),
        np.array(length, np.int32),
        np.array([difficulty for difficulty, _ in problems], np.int32),
        np.full(len(problems), -1, np.int32),
        "characters",
    )


solutions = st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=14)
indexes = st.lists(st.tuples(st.integers(-1, 4), solutions), min_size=1, max_size=8).map(index_of)
shares = st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=4, max_size=4).filter(any).map(tuple)
mixes = st.one_of(st.just({}), shares.map(lambda weights: {"difficulty_bins": (1, 3), "bin_weights": weights}))
limits = st.one_of(st.none(), st.integers(1, 5))
amounts = st.one_of(st.none(), st.integers(1, 20))
seeds = st.integers(0, 2**32)


def bin_by_hand(difficulty: int) -> int:
    """Of difficulty_bins (1, 3)."""
    return 0 if difficulty == -1 else 1 + sum(difficulty >= edge for edge in (1, 3))


def is_asked_for(index: SolutionIndex, row: int, mix: dict[str, tuple[float, ...]]) -> bool:
    return not mix or mix["bin_weights"][bin_by_hand(index.difficulty[index.problem[row]])] > 0


def pairs_or_none(index: SolutionIndex, config: PairConfig, seed: int) -> Pairs | None:
    try:
        return sample_pairs(index, config, seed)
    except UserError:
        return None


@given(indexes, mixes, limits, amounts, st.booleans(), st.sampled_from([1.1, 1.25, 2.0]), seeds)
@settings(max_examples=300, deadline=None)
def test_pairs_keep_every_promise(
    index: SolutionIndex,
    mix: dict[str, tuple[float, ...]],
    limit: int | None,
    n: int | None,
    balanced: bool,
    ratio: float,
    seed: int,
) -> None:
    ratio_option = {"length_ratio": ratio} if balanced else {}
    config = PairConfig(n_pairs=n, max_pairs_per_problem=limit, length_balanced=balanced, **mix, **ratio_option)
    pairs = pairs_or_none(index, config, seed)
    if pairs is None:
        return
    assert 1 <= len(pairs) <= (n or len(index))
    assert index.is_correct[pairs.correct].all()
    assert not index.is_correct[pairs.incorrect].any()
    problem = index.problem[pairs.correct]
    assert (problem == index.problem[pairs.incorrect]).all()
    assert len({*pairs.correct, *pairs.incorrect}) == 2 * len(pairs)
    assert max(Counter(problem.tolist()).values()) <= (limit or len(index))
    assert all(is_asked_for(index, row, mix) for row in pairs.correct)
    if balanced:
        lengths = np.sort(np.maximum([index.length[pairs.correct], index.length[pairs.incorrect]], 1), axis=0)
        assert (lengths[1] <= ratio * lengths[0]).all()
    again = sample_pairs(index, config, seed)
    assert (again.correct == pairs.correct).all()
    assert (again.incorrect == pairs.incorrect).all()


@given(indexes, limits, seeds)
@settings(max_examples=200, deadline=None)
def test_the_number_of_pairs_is_that_of_a_slow_loop(index: SolutionIndex, limit: int | None, seed: int) -> None:
    expected = 0
    for row in range(len(index.difficulty)):
        labels = index.is_correct[index.problem == row]
        expected += min(int(labels.sum()), int((~labels).sum()), limit or len(labels))
    pairs = pairs_or_none(index, PairConfig(max_pairs_per_problem=limit, length_balanced=False), seed)
    assert (len(pairs) if pairs else 0) == expected


@given(indexes, mixes, limits, amounts, seeds)
@settings(max_examples=200, deadline=None)
def test_the_incorrect_one_is_as_often_the_longer_as_the_shorter(
    index: SolutionIndex, mix: dict[str, tuple[float, ...]], limit: int | None, n: int | None, seed: int
) -> None:
    pairs = pairs_or_none(index, PairConfig(n_pairs=n, max_pairs_per_problem=limit, **mix), seed)
    if pairs is None:
        return
    surplus: Counter[int] = Counter()
    for correct, incorrect in zip(pairs.correct, pairs.incorrect, strict=True):
        stratum = bin_by_hand(index.difficulty[index.problem[correct]]) if mix else 0
        surplus[stratum] += int(np.sign(index.length[incorrect] - index.length[correct]))
    assert all(abs(difference) <= 1 for difference in surplus.values())
    if n is None and not mix:
        assert surplus[0] == 0


@given(indexes, limits, amounts, mixes, seeds)
@settings(max_examples=200, deadline=None)
def test_sampled_solutions_keep_every_promise(
    index: SolutionIndex, limit: int | None, n: int | None, mix: dict[str, tuple[float, ...]], seed: int
) -> None:
    config = SampleConfig(n_samples=n, max_per_problem=limit, **mix)
    there = [row for row in np.flatnonzero(index.is_correct) if is_asked_for(index, row, mix)]
    if not there:
        with pytest.raises(UserError, match="no correct solution to sample"):
            sample_solutions(index, config, seed)
        return
    rows = sample_solutions(index, config, seed)
    assert set(rows) <= set(there)
    assert len(set(rows)) == len(rows)
    if not mix:
        each = Counter(index.problem[there].tolist())
        available = sum(min(count, limit or count) for count in each.values())
        assert len(rows) == min(available, n or available)
    assert max(Counter(index.problem[rows].tolist()).values()) <= (limit or len(index))
    assert (rows == sample_solutions(index, config, seed)).all()


def quota_by_hand(there: list[int], weights: list[int], n: int) -> list[int]:
    """Largest remainder in exact arithmetic; strata that cannot give their share give all, and the rest is shared."""
    quota = [0] * len(there)
    asking = [i for i in range(len(there)) if weights[i] and there[i]]
    left = min(n, sum(there[i] for i in asking))
    while asking:
        exact = {i: Fraction(left * weights[i], sum(weights[j] for j in asking)) for i in asking}
        short = [i for i in asking if there[i] <= exact[i]]
        if not short:
            for i in asking:
                quota[i] = int(exact[i])
            by_remainder = sorted(asking, key=lambda i: (-(exact[i] - int(exact[i])), i))
            for i in by_remainder[: left - sum(quota[j] for j in asking)]:
                quota[i] += 1
            return quota
        for i in short:
            quota[i] = there[i]
        left -= sum(there[i] for i in short)
        asking = [i for i in asking if i not in short]
    return quota


strata = st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0, 1, 2, 4])), min_size=1, max_size=5)


@given(strata.filter(lambda s: any(w for _, w in s)), st.integers(1, 80))
def test_quotas_are_those_of_exact_arithmetic(strata: list[tuple[int, int]], n: int) -> None:
    there, weights = map(list, zip(*strata, strict=True))
    quota = _quota(np.array(there), np.array(weights) / sum(weights), n)
    # Equal remainders may differ by rounding, so the numbers are compared where they are not a matter of a tie.
    assert quota.sum() == sum(quota_by_hand(there, weights, n))
    assert np.abs(quota - quota_by_hand(there, weights, n)).max() <= 1
    assert (quota <= there).all()


def test_bins_get_their_shares_and_what_one_lacks_goes_to_the_others() -> None:
    shares = np.array([0.0, 0.5, 0.3, 0.2])
    assert _quota(np.array([99, 99, 99, 99]), shares, 11).tolist() == [0, 6, 3, 2]
    assert _quota(np.array([99, 2, 99, 99]), shares, 12).tolist() == [0, 2, 6, 4]
    assert _quota(np.array([99, 2, 3, 4]), shares, 50).tolist() == [0, 2, 3, 4]


def test_without_a_number_the_shares_decide_how_many() -> None:
    assert _quota(np.array([5, 10, 100]), np.array([0.0, 0.5, 0.5]), None).tolist() == [0, 10, 10]
    assert _quota(np.array([5, 0, 100]), np.array([0.2, 0.4, 0.4]), None).tolist() == [5, 0, 10]
    assert _quota(np.array([7]), np.array([1.0]), None).tolist() == [7]


@given(st.lists(st.integers(1, 70), min_size=1, max_size=6), seeds)
def test_a_permutation_holds_every_item_once(sizes: list[int], seed: int) -> None:
    size = np.repeat(sizes, sizes)
    group = np.repeat(np.arange(len(sizes)), sizes)
    position = np.concatenate([np.arange(n) for n in sizes])
    items = _permuted(position, size, group, np.random.default_rng(seed))
    for number, n in enumerate(sizes):
        assert sorted(items[group == number]) == list(range(n))


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13])
def test_every_item_is_drawn_equally_often_and_with_every_other(n: int) -> None:
    groups = 40_000
    group, size = np.repeat(np.arange(groups), 2), np.full(2 * groups, n)
    drawn = _permuted(np.tile([0, 1], groups), size, group, np.random.default_rng(0)).reshape(groups, 2)
    for place in (0, 1):
        assert np.bincount(drawn[:, place], minlength=n) == pytest.approx(groups / n, rel=0.1)
    together = Counter(map(tuple, drawn.tolist()))
    assert set(together) == {pair for a, b in combinations(range(n), 2) for pair in ((a, b), (b, a))}
    assert min(together.values()) > 0.7 * groups / (n * (n - 1))


def biased_index(seed: int = 0) -> SolutionIndex:
    """400 problems of three difficulties whose incorrect programs are a quarter longer."""
    rng = np.random.default_rng(seed)
    problems: list[Problem] = []
    for number in range(400):
        own = rng.normal(5, 0.5)
        labels = rng.random(40) < 0.4
        lengths = np.exp(rng.normal(own + np.where(labels, 0, 0.22), 0.3)).astype(int)
        problems.append((number % 3, list(zip(labels.tolist(), lengths.tolist(), strict=True))))
    return index_of(problems)


def shorter_is_right(index: SolutionIndex, pairs: Pairs) -> float:
    """Accuracy of the ranker that calls the shorter program right; ties count 1/2."""
    longer = np.sign(index.length[pairs.incorrect] - index.length[pairs.correct])
    return float(longer.mean() + 1) / 2


def test_a_length_only_ranker_is_at_chance_on_held_out_problems_where_it_was_not() -> None:
    train, held_out = biased_index(0), biased_index(1)
    accuracy = {}
    for balanced in (False, True):
        config = PairConfig(length_balanced=balanced, max_pairs_per_problem=8)
        shorter, on_held_out = (shorter_is_right(index, sample_pairs(index, config, 0)) for index in (train, held_out))
        accuracy[balanced] = on_held_out if shorter >= 0.5 else 1 - on_held_out
    assert accuracy[False] > 0.65
    assert accuracy[True] == pytest.approx(0.5, abs=0.001)


def test_no_length_gives_away_which_one_is_correct() -> None:
    index = biased_index()
    pairs = sample_pairs(index, PairConfig(), 0)
    correct, incorrect = index.length[pairs.correct], index.length[pairs.incorrect]
    assert correct.mean() == pytest.approx(incorrect.mean(), rel=0.005)
    for quarter in np.array_split(np.argsort(correct + incorrect), 4):
        longer = np.sign(incorrect[quarter] - correct[quarter])
        assert longer.mean() == pytest.approx(0, abs=0.05)


def test_shares_of_difficulty_are_met_and_the_balance_of_lengths_with_them() -> None:
    index = biased_index()
    config = PairConfig(n_pairs=600, difficulty_bins=(1, 2), bin_weights=(0, 0.5, 0.3, 0.2))
    pairs = sample_pairs(index, config, 0)
    assert Counter(index.difficulty[index.problem[pairs.correct]].tolist()) == {0: 300, 1: 180, 2: 120}
    assert shorter_is_right(index, pairs) == pytest.approx(0.5, abs=0.003)


def test_another_seed_gives_other_pairs_in_another_order() -> None:
    index = biased_index()
    first, second = (sample_pairs(index, PairConfig(n_pairs=200), seed) for seed in (0, 1))
    assert len(set(first.correct) & set(second.correct)) < 100
    assert not (np.diff(first.correct) > 0).all()


@pytest.mark.parametrize(
    ("problems", "options", "message"),
    [
        ([(0, [(True, 3)]), (0, [(False, 3)])], {}, "0 of 2 problems have both .*choose a dataset with incorrect"),
        ([(0, [])], {}, "0 of 1 problems"),
        ([(0, [(True, 3), (False, 300)])], {}, "1 of 1 .*; raise length_ratio or set length_balanced=false$"),
        (
            [(0, [(True, 3), (False, 3)])],
            {"difficulty_bins": (1,), "bin_weights": (1, 0, 1), "length_balanced": False},
            "1 of 1 .*; give bin_weights of a difficulty that occurs$",
        ),
    ],
)
def test_no_pair_at_all_is_one_line_with_the_remedy(problems: list[Problem], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=rf"^no pair to sample: {message}"):
        sample_pairs(index_of(problems), PairConfig(**options), 0)


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        ((False, 3), "0 of 1 solutions fit; choose another dataset or split$"),
        ((True, 3), "1 of 1 solutions fit; give bin_weights of a difficulty that occurs$"),
    ],
)
def test_no_solution_at_all_is_one_line_with_the_remedy(solution: tuple[bool, int], message: str) -> None:
    config = SampleConfig(difficulty_bins=(1,), bin_weights=(1, 0, 1))
    with pytest.raises(UserError, match=rf"^no correct solution to sample: {message}"):
        sample_solutions(index_of([(0, [solution])]), config, 0)


def test_portions_of_a_split_have_no_problem_in_common_and_together_are_all_of_it() -> None:
    index = index_of([(0, [(True, 3), (False, 3)]) for _ in range(7)])
    halves = [(0.0, 0.5), (0.5, 1.0)]
    for rows in (
        [index.problem[sample_solutions(index, SampleConfig(portion=half), 0)] for half in halves],
        [index.problem[sample_pairs(index, PairConfig(portion=half), 0).correct] for half in halves],
    ):
        assert sorted(np.concatenate(rows)) == list(range(7))
        assert max(rows[0]) < min(rows[1])


def test_all_labels_are_sampled_only_where_asked_for() -> None:
    index = index_of([(0, [(True, 3), (False, 3), (False, 4)]), (0, [(False, 5)])])
    assert sorted(sample_solutions(index, SampleConfig(labels="all"), 0)) == [0, 1, 2, 3]
    assert sorted(sample_solutions(index, SampleConfig(), 0)) == [0]


def test_a_portion_without_solutions_names_itself() -> None:
    index = index_of([(0, [(True, 3)]), (0, [(False, 3)])])
    with pytest.raises(UserError, match=r"1 of 2 solutions fit; widen portion \(0.5, 1.0\)$"):
        sample_solutions(index, SampleConfig(portion=(0.5, 1)), 0)
    with pytest.raises(ValueError, match=r"portion \(0.5, 0.5\) must rise"):
        SampleConfig(portion=(0.5, 0.5))


def test_a_single_possible_pair_of_equal_lengths_is_found() -> None:
    pairs = sample_pairs(index_of([(0, [(False, 7), (True, 7), (True, 90)])]), PairConfig(), 0)
    assert (pairs.correct.tolist(), pairs.incorrect.tolist()) == ([1], [0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty_bins": (7, 7), "bin_weights": (1, 1, 1, 1)}, r"difficulty_bins \(7, 7\) must be rising edges"),
        ({"difficulty_bins": (-1, 7), "bin_weights": (1, 1, 1, 1)}, r"difficulty_bins \(-1, 7\) must be rising"),
        ({"difficulty_bins": (7, 11)}, r"bin_weights \(\) must hold 4 shares for difficulty_bins \(7, 11\): unknown"),
        ({"bin_weights": (1.0,)}, r"bin_weights \(1.0,\) has no effect without difficulty_bins"),
        ({"difficulty_bins": (7,), "bin_weights": (0, 0, 0)}, r"must be shares of 0 or more, not all 0"),
        ({"difficulty_bins": (7,), "bin_weights": (1, -1, 1)}, r"must be shares of 0 or more, not all 0"),
        ({"length_balanced": False, "length_ratio": 1.5}, r"length_ratio 1.5 has no effect with length_balanced"),
        ({"length_ratio": 1.0}, r"`length_ratio`: .*greater than or equal to 1.02"),
        ({"n_pairs": 0}, r"`n_pairs`: .*greater than or equal to 1"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_one_line(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        validated(PairConfig, options)
    assert "\n" not in str(raised.value)
