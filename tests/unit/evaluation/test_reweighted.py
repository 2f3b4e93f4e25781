"""Importance weighting: exact where every program is known, and the right direction where a few are."""

import numpy as np
import pytest

from weighted_mtp.evaluation.reweighted import reweighted_pass_rates

PASSES = np.array([True, False, False, True, False])


def policies(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two distributions over five programs, the second near the first."""
    generator = np.random.default_rng(seed)
    first = generator.dirichlet(np.ones(5))
    moved = first * np.exp(0.6 * generator.normal(size=5))
    return first, moved / moved.sum()


def test_many_programs_give_the_moved_policys_pass_rate() -> None:
    first, moved = policies(3)
    drawn = np.random.default_rng(1).choice(5, size=200_000, p=first)
    ratios = np.log(moved / first)[drawn]
    (rate,) = reweighted_pass_rates(ratios, PASSES[drawn], np.zeros(len(drawn), dtype=np.int64))
    assert rate == pytest.approx(moved[PASSES].sum(), abs=5e-3)
    assert abs(first[PASSES].sum() - moved[PASSES].sum()) > 3e-2


def test_each_problem_is_weighted_by_itself() -> None:
    ratios = np.array([0.0, np.log(3.0), 5.0, 5.0, 1e4, 1e4])
    passed = np.array([True, False, True, False, True, True])
    rates = reweighted_pass_rates(ratios, passed, np.array([7, 7, 2, 2, 9, 9]))
    assert rates == pytest.approx([0.5, 0.25, 1.0])


def test_a_policy_that_did_not_move_passes_as_often() -> None:
    passed = np.random.default_rng(2).random(40) < 0.3
    problems = np.repeat(np.arange(10), 4)
    rates = reweighted_pass_rates(np.full(40, -2.5), passed, problems)
    assert rates == pytest.approx(passed.reshape(10, 4).mean(1))
