"""pass@k against exact combinatorics, and its intervals."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.pass_at_k import count, estimate, pass_at_k, without_spread


def by_enumeration(n: int, c: int, k: int) -> Fraction:
    """The share of all k-subsets of n samples, the first c of them correct, that hold a correct one."""
    subsets = list(itertools.combinations(range(n), k))
    return Fraction(sum(min(subset) < c for subset in subsets), len(subsets))


@pytest.mark.parametrize("n", range(1, 9))
def test_it_is_the_share_of_subsets_with_a_correct_sample(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        assert pass_at_k(n, c, k) == float(by_enumeration(n, c, k)), (n, c, k)


def test_it_equals_the_product_form_of_the_codex_paper_for_many_samples():
    for n, c, k in [(200, 3, 100), (200, 150, 10), (1000, 1, 100), (10_000, 5_000, 100)]:
        product = 1.0 if n - c < k else 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))
        assert pass_at_k(n, c, k) == pytest.approx(product, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 1, 6), (5, 1, 0), (0, 0, 1), (5, 6, 1), (5, -1, 1)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(UserError, match=f"pass@{k}"):
        pass_at_k(n, c, k)


def test_the_estimate_is_the_mean_over_problems_whatever_their_sample_counts():
    counts = {"a": (2, 1), "b": (10, 10), "c": (4, 0)}
    assert estimate(counts, [1])[1].value == pytest.approx((0.5 + 1 + 0) / 3)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    counts = {str(i): (5, i % 6) for i in range(40)}
    assert estimate(counts, [1, 5], seed=3) == estimate(counts, [1, 5], seed=3)
    assert estimate(counts, [2], seed=3, resamples=99) != estimate(counts, [2], seed=4, resamples=99)


def test_the_interval_is_that_of_a_binomial_when_every_problem_has_one_sample():
    counts = {str(i): (1, int(i < 120)) for i in range(400)}
    found = estimate(counts, [1])[1]
    margin = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert (found.low, found.high) == (pytest.approx(0.3 - margin, abs=0.006), pytest.approx(0.3 + margin, abs=0.006))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The textbook formula at 95 %."""
    z, p = 1.959963984540054, successes / n
    centre, margin = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return (centre - margin) / (1 + z**2 / n), (centre + margin) / (1 + z**2 / n)


@pytest.mark.parametrize("problems", [1, 2, 164, 1000])
@pytest.mark.parametrize("c", [0, 3])
def test_none_or_all_solved_has_wilsons_interval_over_problems(problems, c):
    found = estimate({str(i): (3, c) for i in range(problems)}, [1, 2])
    low, high = wilson(problems * c // 3, problems)
    for k in (1, 2):
        assert found[k].value == c / 3
        assert (found[k].low, found[k].high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


def test_problems_that_are_all_alike_leave_an_interval_that_shrinks_with_their_number():
    widths = []
    for problems in (1, 10, 100):
        found = estimate({str(i): (4, 1) for i in range(problems)}, [1])[1]
        assert 0 < found.low < found.value == 0.25 < found.high < 1
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)


def test_differences_that_are_all_zero_have_an_interval_as_wide_as_their_number_allows():
    found = without_spread(0.0, 30, -1.0, 0.95)
    assert found.high == -found.low == pytest.approx(wilson(0, 30)[1])


def test_a_difference_that_is_the_same_everywhere_stays_within_what_a_difference_can_be():
    found = without_spread(1.0, 5, -1.0, 0.95)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - 2 * wilson(0, 5)[1])


def test_no_problems_are_refused():
    with pytest.raises(UserError, match="no problems"):
        estimate({}, [1])


def test_counting_keeps_the_order_of_the_problems():
    assert list(count([("b", True), ("a", False), ("b", False)]).items()) == [("b", (2, 1)), ("a", (1, 0))]
