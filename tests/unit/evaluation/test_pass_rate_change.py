"""Two estimates of how pass@1 changes: right where every program is known, each blind to what the other tells."""

import numpy as np
import pytest

from weighted_mtp.evaluation.pass_rate_change import pass_rate_changes, reweighted_pass_rates

PASSES = np.array([True, False, False, True, False])


def test_many_programs_give_the_change_of_a_small_move() -> None:
    generator = np.random.default_rng(3)
    first = generator.dirichlet(np.ones(5))
    moved = first * np.exp(0.05 * generator.normal(size=5))
    moved /= moved.sum()
    drawn = np.random.default_rng(1).choice(5, size=(50_000, 4), p=first)
    changes = pass_rate_changes(
        np.log(moved / first)[drawn].ravel(), PASSES[drawn].ravel(), np.repeat(np.arange(50_000), 4)
    )
    truth = moved[PASSES].sum() - first[PASSES].sum()
    assert abs(truth) > 5e-3
    assert changes.mean() == pytest.approx(truth, abs=1e-3)


def test_a_pass_is_compared_with_the_other_programs_of_its_problem() -> None:
    log_ratios = np.array([2.0, -1.0, 5.0, 7.0, 3.0, 1.0, 1.0])
    passed = np.array([True, False, True, True, True, False, False])
    problems = np.array([7, 7, 2, 2, 9, 4, 4])
    assert pass_rate_changes(log_ratios, passed, problems) == pytest.approx([0.0, 0.0, 1.5])


def test_what_makes_every_program_of_a_problem_likelier_changes_nothing() -> None:
    passed = np.random.default_rng(2).random(40) < 0.3
    problems = np.repeat(np.arange(10), 4)
    assert pass_rate_changes(np.repeat(np.arange(10.0), 4), passed, problems) == pytest.approx(np.zeros(10))


def test_reweighted_programs_give_the_pass_rate_after_a_large_move() -> None:
    generator = np.random.default_rng(3)
    first, moved = generator.dirichlet(np.ones(5)), generator.dirichlet(np.ones(5))
    assert (moved / first).max() < 10, "no ratio is truncated"
    drawn = np.random.default_rng(1).choice(5, size=(50_000, 4), p=first)
    rates = reweighted_pass_rates(
        np.log(moved / first)[drawn].ravel(), PASSES[drawn].ravel(), np.repeat(np.arange(50_000), 4)
    )
    assert abs(moved[PASSES].sum() - first[PASSES].sum()) > 0.1
    assert rates.mean() == pytest.approx(moved[PASSES].sum(), abs=0.01)


def test_only_the_reweighted_rate_sees_what_moves_to_programs_that_nobody_wrote() -> None:
    passed, problems = np.array([True, False, False, False]), np.zeros(4, dtype=np.int64)
    log_ratios = np.array([-4.0, -8.0, -8.0, -8.0])
    assert pass_rate_changes(log_ratios, passed, problems) == pytest.approx([1.0])
    assert reweighted_pass_rates(log_ratios, passed, problems) == pytest.approx([np.exp(-4) / 4])


def test_no_program_decides_alone() -> None:
    passed, problems = np.array([True, True]), np.array([0, 1])
    assert reweighted_pass_rates(np.array([700.0, 0.0]), passed, problems) == pytest.approx([10.0, 1.0])
