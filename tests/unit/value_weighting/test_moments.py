"""Running moments: cumulative first, an exponential average after, and never touched by what is thrown away."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from weighted_mtp.training.state import TrainState
from weighted_mtp.value_weighting.moments import Moments, moment_sums

STEPS = [np.random.default_rng(step).normal(3.0, 1.0 + step, size=20 + step) for step in range(15)]


def sums(values: np.ndarray) -> torch.Tensor:
    return moment_sums([torch.from_numpy(values)])


def after(steps: list[np.ndarray], momentum: float = 0.1, warmup: int = 10) -> Moments:
    moments = Moments.initial()
    for values in steps:
        moments = moments.updated(sums(values), momentum, warmup)
    return moments


@pytest.mark.parametrize("n", [1, 4, 10])
def test_during_the_warm_up_all_tokens_seen_count_alike(n: int) -> None:
    seen = np.concatenate(STEPS[:n])
    assert float(after(STEPS[:n]).mean) == pytest.approx(seen.mean(), abs=1e-12)
    assert float(after(STEPS[:n]).std) == pytest.approx(seen.std(), abs=1e-10)


def test_after_the_warm_up_a_step_moves_mean_and_mean_square_by_the_momentum() -> None:
    seen = np.concatenate(STEPS[:10])
    mean, square = seen.mean(), (seen**2).mean()
    for values in STEPS[10:]:
        mean += 0.1 * (values.mean() - mean)
        square += 0.1 * ((values**2).mean() - square)
    assert float(after(STEPS).mean) == pytest.approx(mean, abs=1e-12)
    assert float(after(STEPS).std) == pytest.approx((square - mean**2) ** 0.5, abs=1e-10)


def test_without_a_warm_up_the_first_step_sets_the_moments() -> None:
    moments = after(STEPS[:1], warmup=0)
    assert float(moments.mean) == pytest.approx(STEPS[0].mean())
    assert float(moments.std) == pytest.approx(STEPS[0].std())


@pytest.mark.parametrize("n", [1, 12])
def test_a_step_without_response_tokens_changes_nothing_but_the_number_of_steps(n: int) -> None:
    before, nothing = after(STEPS[:n]), np.zeros(0)
    moments = before.updated(sums(nothing), 0.1, 10)
    assert (moments.count, moments.mean, moments.square) == (before.count, before.mean, before.square)
    assert float(moments.steps) == n + 1


@given(cuts=st.lists(st.integers(0, 34), max_size=4))
def test_sums_are_the_same_however_the_tokens_are_split(cuts: list[int]) -> None:
    values = torch.from_numpy(STEPS[14])
    parts = torch.tensor_split(values, sorted(cuts))
    torch.testing.assert_close(moment_sums(parts), sums(STEPS[14]), rtol=1e-14, atol=1e-12)


def test_sums_of_ranks_add_up_to_the_whole() -> None:
    values = STEPS[0]
    torch.testing.assert_close(sums(values[:7]) + sums(values[7:]), sums(values), rtol=1e-14, atol=0)


def test_the_state_goes_through_a_checkpoint_to_the_last_bit(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    TrainState(model, optimizer, after(STEPS).state(), step=15).save(tmp_path)
    resumed = TrainState(model, optimizer, Moments.initial().state())
    resumed.load(tmp_path)
    assert Moments.of(resumed.objective) == after(STEPS)


def test_an_update_leaves_the_moments_it_began_with_alone() -> None:
    moments = after(STEPS[:3])
    state = moments.state()
    moments.updated(sums(STEPS[3]), 0.1, 10)
    torch.testing.assert_close(moments.state(), state, rtol=0, atol=0)
