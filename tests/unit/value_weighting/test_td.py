"""TD errors, GAE, whitening and weights against slow loops and the identities that define them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_batches import batch_of, by_sample, look_up, splits, table
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.errors import UserError
from weighted_mtp.section import validated
from weighted_mtp.value_weighting.base import ObjectiveState
from weighted_mtp.value_weighting.controls import Uniform
from weighted_mtp.value_weighting.td import (
    CriticOutput,
    TDConfig,
    TDWeighting,
    discounted_sums,
    gae,
    in_space,
    td_errors,
)

VALUES = table()


def critic(batch: Batch) -> Tensor:
    return look_up(VALUES, batch)


def values_and_mask() -> tuple[Tensor, Tensor]:
    batch = batch_of()
    return critic(batch).double(), batch.response_mask


def slow_td_errors(values: Tensor, mask: Tensor, gamma: float, rewards: list[float] | None) -> Tensor:
    delta = torch.zeros_like(values)
    for b, row in enumerate(mask.tolist()):
        positions = [t for t, inside in enumerate(row) if inside]
        for t in positions:
            value = gamma * float(values[b, t])
            if rewards is not None and t == positions[-1]:
                value = rewards[b]
            delta[b, t] = value - float(values[b, t - 1])
    return delta


def slow_gae(delta: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    advantages = torch.zeros_like(delta)
    for b in range(len(delta)):
        following = 0.0
        for t in reversed(range(delta.shape[1])):
            if mask[b, t]:
                following = float(delta[b, t]) + gamma * lam * following
                advantages[b, t] = following
    return advantages


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("rewards", [None, [1.0, 0.0, 1.0, 0.5, 0.0, 1.0]])
def test_td_errors_equal_a_slow_loop(gamma: float, rewards: list[float] | None) -> None:
    values, mask = values_and_mask()
    fast = td_errors(values, mask, gamma, None if rewards is None else torch.tensor(rewards))
    torch.testing.assert_close(fast, slow_td_errors(values, mask, gamma, rewards), rtol=0, atol=1e-12)


def test_the_value_at_the_last_prompt_token_is_the_first_ones_previous_value() -> None:
    mask = torch.tensor([[False, False, True, True]])
    assert td_errors(torch.tensor([[9.0, 1.0, 3.0, 8.0]]), mask, 1.0).tolist() == [[0.0, 0.0, 2.0, 5.0]]


def test_a_response_without_prompt_has_no_first_td_error() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert td_errors(torch.tensor([[7.0, 8.0, 6.0]]), mask, 1.0).tolist() == [[0.0, 1.0, -2.0]]


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_gae_equals_a_slow_loop(gamma: float, lam: float) -> None:
    values, mask = values_and_mask()
    delta = td_errors(values, mask, gamma)
    torch.testing.assert_close(gae(delta, mask, gamma, lam), slow_gae(delta, mask, gamma, lam), rtol=0, atol=1e-6)


def test_lambda_zero_gives_the_td_errors() -> None:
    values, mask = values_and_mask()
    delta = td_errors(values, mask, 1.0)
    assert torch.equal(gae(delta, mask, 1.0, 0.0), delta)


def test_lambda_one_telescopes_to_the_last_value_minus_the_previous_one() -> None:
    values, mask = values_and_mask()
    advantages = gae(td_errors(values, mask, 1.0), mask, 1.0, 1.0)
    last = torch.stack([row[m][-1] for row, m in zip(values, mask, strict=True)])
    previous = torch.cat([values[:, :1], values[:, :-1]], dim=1)
    torch.testing.assert_close(advantages[mask], (last[:, None] - previous)[mask], rtol=0, atol=1e-12)


def test_lambda_goes_to_one_continuously() -> None:
    values, mask = values_and_mask()
    delta = td_errors(values, mask, 1.0)
    at_one = gae(delta, mask, 1.0, 1.0)
    gaps = [float((gae(delta, mask, 1.0, 1 - step) - at_one).abs().max()) for step in (1e-2, 1e-4, 1e-6, 1e-8)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6


@given(length=st.integers(1, 70), decay=st.floats(0, 1), seed=st.integers(0, 99))
def test_discounted_sums_equal_the_recursion_for_any_length_and_decay(length: int, decay: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=length)
    expected, following = np.zeros(length), 0.0
    for t in reversed(range(length)):
        expected[t] = following = x[t] + decay * following
    np.testing.assert_allclose(discounted_sums(torch.from_numpy(x), decay).numpy(), expected, atol=1e-11)


@pytest.mark.parametrize("decay", [1e-3, 0.5, 0.95, 0.9999, 1.0])
def test_a_long_response_in_fp32_is_as_exact_as_fp32_allows(decay: float) -> None:
    x = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0))
    exact = discounted_sums(x.double(), decay)
    relative = (discounted_sums(x, decay) - exact).abs().max() / exact.abs().max()
    assert float(relative) < 2e-6


def test_what_padding_and_prompt_hold_never_matters() -> None:
    values, mask = values_and_mask()
    needed = mask | torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)  # and the last prompt token
    other = values.masked_fill(~needed, float("nan"))
    rewards = torch.ones(len(mask))
    expected = gae(td_errors(values, mask, 1.0, rewards), mask, 1.0, 0.95)
    assert torch.equal(gae(td_errors(other, mask, 1.0, rewards), mask, 1.0, 0.95), expected)


def one_step(config: TDConfig, state: ObjectiveState | None = None) -> tuple[Tensor, ObjectiveState]:
    weighting = TDWeighting(config, critic)
    (weights,), state = weighting([batch_of()], state or weighting.initial_state())
    return weights, state


def test_lambda_is_zero_for_advantages_and_gaes_own_for_values_unless_given() -> None:
    def lam(config: TDConfig, output_kind: CriticOutput) -> float:
        return TDWeighting(config, critic, output_kind).lam

    assert (lam(TDConfig(), "advantage"), lam(TDConfig(), "score")) == (0.0, 0.95)
    assert (lam(TDConfig(lam=0.5), "advantage"), lam(TDConfig(lam=0.5), "score")) == (0.5, 0.5)


def test_centred_by_program_every_programs_advantages_add_up_to_nothing() -> None:
    batch, plain = batch_of(), TDWeighting(TDConfig(), critic).advantages(batch_of())
    centred = TDWeighting(TDConfig(centre="program"), critic).advantages(batch)
    for row, mask in enumerate(batch.response_mask):
        torch.testing.assert_close(centred[row][mask], plain[row][mask] - plain[row][mask].mean())
        assert not centred[row][~mask].any()


def test_weights_are_the_clipped_exponential_of_the_whitened_advantage() -> None:
    weights, _ = one_step(TDConfig(lam=0.9, beta=0.5, w_min=0.2, w_max=2.0))
    values, mask = values_and_mask()
    a = gae(td_errors(values, mask, 1.0), mask, 1.0, 0.9)[mask].numpy()
    expected = np.clip(np.exp((a - a.mean()) / a.std() / 0.5), 0.2, 2.0)
    np.testing.assert_allclose(weights[mask].numpy(), expected, rtol=1e-4)
    assert torch.equal(weights[~mask], torch.ones(int((~mask).sum())))


@pytest.mark.parametrize(
    "config",
    [TDConfig(), TDConfig(space="probability"), TDConfig(lam=1.0, space="probability", terminal_reward=1.0)],
)
def test_splitting_into_microbatches_changes_neither_weights_nor_moments(config: TDConfig) -> None:
    weighting = TDWeighting(config, critic)
    results = []
    for parts in splits(batch_of()):
        weights, state = weighting(parts, weighting.initial_state())
        results.append((by_sample(parts, weights), state))
    for weights, state in results[1:]:
        for sample_id, expected in results[0][0].items():
            torch.testing.assert_close(weights[sample_id], expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(state, results[0][1], rtol=1e-12, atol=1e-12)


def test_a_discarded_state_leaves_the_moments_as_they_were() -> None:
    weighting = TDWeighting(TDConfig(), critic)
    _, state = weighting([batch_of()], weighting.initial_state())
    kept = {name: value.clone() for name, value in state.items()}
    weighting([batch_of((8, 6), (2, 3), first_id=40)], state)  # a validation
    torch.testing.assert_close(state, kept, rtol=0, atol=0)


def test_a_critic_that_says_the_same_everywhere_gives_uniform_weights_exactly() -> None:
    weighting = TDWeighting(TDConfig(), lambda batch: torch.full(batch.input_ids.shape, 0.3))
    weights, _ = weighting([batch_of()], weighting.initial_state())
    assert torch.equal(weights[0], Uniform()([batch_of()], {})[0][0])


def test_extreme_values_give_weights_within_the_bounds() -> None:
    weighting = TDWeighting(TDConfig(beta=1e-3), lambda batch: critic(batch) * 1e12)
    (weights,), _ = weighting([batch_of()], weighting.initial_state())
    response = weights[batch_of().response_mask]
    assert float(response.min()) == pytest.approx(0.1)
    assert float(response.max()) == 3.0


def test_strength_mixes_towards_one() -> None:
    plain, _ = one_step(TDConfig())
    mixed, _ = one_step(TDConfig(strength=0.5))
    torch.testing.assert_close(mixed, 0.5 + 0.5 * plain)
    assert torch.equal(one_step(TDConfig(strength=0.0))[0], torch.ones_like(plain))
    assert TDConfig(strength=0.5).bounds == pytest.approx((0.55, 2.0))
    assert TDConfig(strength=0.0).bounds is None
    assert TDConfig(head_strengths=(1.0, 0.5)).bounds is None


def test_annealing_goes_from_uniform_to_the_weights_by_the_step_in_the_state() -> None:
    plain, _ = one_step(TDConfig())
    state, strengths = None, []
    for _ in range(4):  # the same batch again: the cumulative moments stay, so the weights alone move
        weights, state = one_step(TDConfig(anneal_steps=2), state)
        strengths.append(float(((weights - 1) / (plain - 1)).nanmedian()))
    assert strengths == pytest.approx([0.0, 0.5, 1.0, 1.0], abs=1e-4)


def test_head_strengths_give_every_head_its_own_weights() -> None:
    plain, _ = one_step(TDConfig())
    weights, _ = one_step(TDConfig(head_strengths=(1.0, 0.25, 0.0)))
    assert torch.equal(weights[..., 0], plain)
    torch.testing.assert_close(weights[..., 1], 1 + 0.25 * (plain - 1))
    assert torch.equal(weights[..., 2], torch.ones_like(plain))


def test_an_implicit_critics_advantages_stand_for_the_td_errors() -> None:
    weighting = TDWeighting(TDConfig(lam=0.95, w_min=0.0, w_max=1e9), critic, output_kind="advantage")
    batch = batch_of()
    assert torch.equal(weighting.td_errors(batch), critic(batch).masked_fill(~batch.response_mask, 0))
    (weights,), _ = weighting([batch], weighting.initial_state())
    a = gae(critic(batch), batch.response_mask, 1.0, 0.95)
    assert torch.equal(weights[batch.response_mask].argsort(), a[batch.response_mask].argsort())


def test_spaces_turn_scores_into_probabilities_and_probabilities_into_log_odds() -> None:
    scores = torch.linspace(-5, 5, 11, dtype=torch.float64)
    probabilities = in_space(scores, "score", "probability")
    torch.testing.assert_close(probabilities, 1 / (1 + (-scores).exp()))
    torch.testing.assert_close(in_space(probabilities, "probability", "log_odds"), scores)
    for output_kind, space in [("score", "value"), ("score", "log_odds"), ("probability", "probability")]:
        assert torch.equal(in_space(scores, output_kind, space), scores)
    assert bool(in_space(torch.tensor([0.0, 1.0]), "probability", "log_odds").isfinite().all())


def test_the_terminal_reward_ends_every_response_by_what_the_critic_missed() -> None:
    weighting = TDWeighting(TDConfig(space="probability", terminal_reward=1.0), critic)
    batch = batch_of()
    p = torch.sigmoid(critic(batch))
    for row, length in enumerate(batch.attention_mask.sum(1).tolist()):
        delta = weighting.td_errors(batch)[row, length - 1]
        torch.testing.assert_close(delta, 1 - p[row, length - 2])


def test_no_gradient_reaches_the_critic() -> None:
    parameter = torch.zeros((), requires_grad=True)
    weighting = TDWeighting(TDConfig(), lambda batch: critic(batch) + parameter)
    (weights,), _ = weighting([batch_of()], weighting.initial_state())
    assert not weights.requires_grad


def test_a_batch_without_response_gives_ones() -> None:
    batch = batch_of()
    empty = replace(batch, response_mask=torch.zeros_like(batch.response_mask))
    weighting = TDWeighting(TDConfig(), critic)
    (weights,), state = weighting([empty], weighting.initial_state())
    assert torch.equal(weights, torch.ones_like(weights))
    assert float(state["count"]) == 0
    assert float(state["mean"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w_min": 3.0, "w_max": 3.0}, "w_min=3.0 must be less than w_max=3.0"),
        ({"terminal_reward": 1.0, "space": "log_odds"}, "terminal_reward is a probability"),
        ({"beta": math.inf}, "beta.*finite"),
        ({"terminal_reward": math.nan}, "terminal_reward.*finite"),
        ({"head_strengths": (1.0, 1.5)}, r"head_strengths=\(1.0, 1.5\) must lie between 0 and 1"),
    ],
)
def test_options_that_do_not_agree_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validated(TDConfig, options)


@pytest.mark.parametrize("config", [TDConfig(space="probability"), TDConfig(terminal_reward=1.0)])
def test_options_without_effect_on_advantages_are_refused(config: TDConfig) -> None:
    with pytest.raises(UserError, match="a critic that gives advantages has no values"):
        TDWeighting(config, critic, output_kind="advantage")


@pytest.mark.parametrize("space", ["value", "log_odds"])
def test_a_terminal_reward_ends_no_scores(space: str) -> None:
    """A sure and right critic, V = 4, would else call the end of a correct program wrong: R − V = −3."""
    config = TDConfig.model_construct(**{**dict(TDConfig(terminal_reward=1.0)), "space": space})
    with pytest.raises(UserError, match=r"set weighting.space=probability"):
        TDWeighting(config, critic)
    TDWeighting(TDConfig(terminal_reward=1.0), critic, output_kind="probability")
