"""The interval over seeds and problems: against its terms written out, and how often it covers what it estimates."""

import math

import numpy as np
import pytest
from scipy import stats

from weighted_mtp.report.intervals import over_seeds_and_problems


def margin(values: np.ndarray) -> float:
    """Half of the 95 % interval of (S, P) values' mean, term by term."""
    seeds, problems = values.shape
    mean = sum(map(sum, values)) / values.size
    of_seeds = [sum(row) / problems for row in values]
    of_problems = [sum(column) / seeds for column in values.T]
    by_seed = sum((m - mean) ** 2 for m in of_seeds) / (seeds - 1) / seeds
    by_problem = sum((m - mean) ** 2 for m in of_problems) / (problems - 1) / problems
    squares = [(values[s, p] - of_seeds[s] - of_problems[p] + mean) ** 2 for s in range(seeds) for p in range(problems)]
    both = sum(squares) / ((seeds - 1) * (problems - 1)) / values.size
    t_seeds, t_problems = (stats.t(size - 1).ppf(0.975) for size in (seeds, problems))
    shares = (t_seeds**2 * by_seed, t_problems**2 * by_problem)
    return math.sqrt(max(*shares, sum(shares) - t_problems**2 * both))


def test_terms_are_those_of_seeds_and_of_problems_and_what_both_count_is_counted_once() -> None:
    draw = np.random.default_rng(5)
    values = draw.random((3, 7)) * 0.1 + draw.random(7) * 0.3 + 0.3
    baseline = draw.random((3, 7)) * 0.1 + draw.random(7) * 0.2
    found = over_seeds_and_problems(values)
    expected = margin(values)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((expected, expected))
    paired = over_seeds_and_problems(values, baseline)
    expected = margin(values - baseline)
    assert (paired.value - paired.low, paired.high - paired.value) == pytest.approx((expected, expected))
    assert paired.value == pytest.approx(values.mean() - baseline.mean())


def test_seeds_that_agree_by_chance_leave_the_interval_over_problems() -> None:
    values = np.array([[1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]])
    found, alone = over_seeds_and_problems(values), over_seeds_and_problems(values.mean(axis=0, keepdims=True))
    assert (found.low, found.high) == (alone.low, alone.high)
    assert found.high - found.low > 0.1


def test_one_seed_is_a_t_interval_over_problems() -> None:
    values = np.random.default_rng(0).random((1, 12))
    low, high = stats.t.interval(0.95, 11, values.mean(), values.std(ddof=1) / math.sqrt(12))
    found = over_seeds_and_problems(values)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_other_numbers_of_seeds_are_not_paired() -> None:
    draw = np.random.default_rng(1)
    values, baseline = draw.random((3, 9)), draw.random((2, 9))
    found = over_seeds_and_problems(values, baseline)
    assert found.value == pytest.approx(values.mean() - baseline.mean())
    same = over_seeds_and_problems(np.vstack([baseline, baseline[:1]]), baseline)
    assert same.high > 0.01  # nothing cancels


def test_intervals_stay_where_their_value_can_be() -> None:
    values = np.stack([np.full(9, 0.05), np.full(9, 0.95)])
    assert (over_seeds_and_problems(values).low, over_seeds_and_problems(values).high) == (0.0, 1.0)
    found = over_seeds_and_problems(values, 1 - values)
    assert (found.low, found.high) == (-1.0, 1.0)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_intervals_of_few_seeds_cover_as_often_as_they_say(seeds: int) -> None:
    """Arms whose gain differs from seed to seed and from problem to problem: 95 % of intervals hold the true gain."""
    draw, trials, problems = np.random.default_rng(7), 1000, 40
    covered = 0
    for _ in range(trials):
        gain = 0.05 + draw.normal(0, 0.1, (seeds, 1)) + draw.normal(0, 0.2, problems)
        baseline = 0.4 + draw.normal(0, 0.1, (seeds, problems))
        found = over_seeds_and_problems(baseline + gain + draw.normal(0, 0.1, gain.shape), baseline)
        covered += found.low <= 0.05 <= found.high
    assert 0.93 <= covered / trials <= 0.98  # 0.95 ± 3 binomial standard errors, and a little more for the safe side
