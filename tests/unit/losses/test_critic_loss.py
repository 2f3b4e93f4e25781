"""Critic losses against loops over tokens and pairs, and their behaviour at the edges."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from weighted_mtp.errors import UserError
from weighted_mtp.losses.critic_loss import (
    CriticObjective,
    ImplicitConfig,
    LambdaReturnConfig,
    LossSum,
    OutcomeConfig,
    PairwiseRankingConfig,
    implicit,
    implicit_advantages,
    lambda_return,
    lambda_targets,
    outcome,
    pairwise_ranking,
    program_scores,
    valued_tokens,
)
from weighted_mtp.section import validated

LENGTHS, STARTS = (9, 6, 7, 3), (3, 1, 5, 2)
POSITION = torch.arange(9)
REAL = torch.tensor(LENGTHS)[:, None] > POSITION
RESPONSE = REAL & (torch.tensor(STARTS)[:, None] <= POSITION)
MASK = valued_tokens(RESPONSE)
PAIRS = torch.tensor([[0, 1], [2, 3], [0, 3]])
OUTCOMES = torch.tensor([1.0, 0.0, 1.0, 0.0])


def values(seed: int = 0) -> Tensor:
    return torch.randn(4, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def response_of(x: Tensor, row: int) -> list[float]:
    return x[row, STARTS[row] : LENGTHS[row]].tolist()


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def test_valued_tokens_are_the_response_and_the_last_prompt_token() -> None:
    for row, (start, length) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        assert MASK[row].nonzero().squeeze(-1).tolist() == list(range(start - 1, length))


@pytest.mark.parametrize(
    ("critic", "score"),
    [
        (PairwiseRankingConfig(), lambda v: sum(v) / len(v)),
        (PairwiseRankingConfig(pooling="last"), lambda v: v[-1]),
        (OutcomeConfig(), lambda v: v[-1]),
        (LambdaReturnConfig(), lambda v: v[-1]),
        (ImplicitConfig(), sum),
    ],
)
def test_programs_are_ranked_by_what_the_objective_makes_meaningful(
    critic: CriticObjective, score: Callable[[list[float]], float]
) -> None:
    v = values()
    expected = torch.tensor([score(response_of(v, row)) for row in range(4)])
    torch.testing.assert_close(program_scores(v, RESPONSE, critic), expected)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("margin", [None, 0.7])
def test_pairwise_ranking_equals_a_loop_over_pairs(pooling: str, margin: float | None) -> None:
    v, expected = values(), 0.0
    for pair in PAIRS.tolist():
        responses = [response_of(v, row) for row in pair]
        correct, incorrect = (r[-1] if pooling == "last" else sum(r) / len(r) for r in responses)
        difference = correct - incorrect
        expected += softplus(-difference) if margin is None else max(0.0, margin - difference)
    loss, count = pairwise_ranking(v, RESPONSE, PAIRS, pooling, margin)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(count) == 3


def slow_targets(v: Tensor, gamma: float, lam: float) -> Tensor:
    targets = torch.zeros_like(v)
    for row in range(len(v)):
        last = LENGTHS[row] - 1
        targets[row, last] = g = float(OUTCOMES[row])
        for t in reversed(range(STARTS[row] - 1, last)):
            g = (1 - lam) * gamma * float(v[row, t + 1]) + lam * gamma * g
            targets[row, t] = g
    return targets


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_lambda_targets_equal_a_loop_over_time(gamma: float, lam: float) -> None:
    targets = lambda_targets(values(), MASK, OUTCOMES, gamma, lam)
    torch.testing.assert_close(targets, slow_targets(values(), gamma, lam).float(), rtol=0, atol=1e-6)


def test_lambda_one_is_monte_carlo() -> None:
    assert torch.equal(lambda_targets(values(), MASK, OUTCOMES, 1.0, 1.0)[MASK], OUTCOMES[:, None].expand(4, 9)[MASK])


@pytest.mark.parametrize("delta", [None, 0.5])
def test_lambda_return_is_the_squared_or_huber_error_and_counts_tokens(delta: float | None) -> None:
    errors = (values() - slow_targets(values(), 0.9, 0.8))[MASK]
    huber = [0.5 * e * e if abs(e) <= 0.5 else 0.5 * (abs(e) - 0.25) for e in errors.tolist()]
    loss, count = lambda_return(values(), MASK, OUTCOMES, 0.9, 0.8, delta)
    assert float(loss) == pytest.approx(float((errors**2).sum()) if delta is None else sum(huber), rel=1e-5)
    assert int(count) == int(MASK.sum())


def test_targets_carry_no_gradient() -> None:
    v = values().requires_grad_()
    lambda_return(v, MASK, OUTCOMES, 1.0, 0.5)[0].backward()
    expected = 2 * (v.detach() - slow_targets(v.detach(), 1.0, 0.5)).masked_fill(~MASK, 0.0)
    torch.testing.assert_close(v.grad, expected, rtol=1e-5, atol=1e-6)


def test_outcome_is_the_binary_cross_entropy_of_every_token() -> None:
    v, expected = values(), 0.0
    for row, success in enumerate(OUTCOMES.tolist()):
        expected += sum(softplus(-x if success else x) for x in v[row][MASK[row]].tolist())
    loss, count = outcome(v, MASK, OUTCOMES)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert int(count) == int(MASK.sum())


@pytest.mark.parametrize("anchor", [0.0, 0.5])
@pytest.mark.parametrize("form", ["relative", "absolute"])
def test_implicit_prefers_by_the_sum_of_log_ratios_and_is_anchored_by_the_correct_program(
    form: str, anchor: float
) -> None:
    policy, reference, expected = values(1), values(2), 0.0
    for pair in PAIRS.tolist():
        correct, incorrect = (0.3 * (sum(response_of(policy, r)) - sum(response_of(reference, r))) for r in pair)
        expected += softplus(incorrect - correct) if form == "relative" else softplus(-correct) + softplus(incorrect)
        of_correct = response_of(policy, pair[0])
        expected -= anchor * sum(of_correct) / len(of_correct)
    config = ImplicitConfig(beta=0.3, form=form, anchor=anchor)
    loss, count = implicit(policy, reference, RESPONSE, PAIRS, config)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(count) == 3


def test_a_copy_equal_to_its_reference_has_no_advantages_and_loss_log_two() -> None:
    assert torch.equal(implicit_advantages(values(), values(), RESPONSE, 0.1), torch.zeros(4, 9))
    loss, count = implicit(values(), values(), RESPONSE, PAIRS, ImplicitConfig(anchor=0.0))
    assert float(loss / count) == pytest.approx(math.log(2))


def all_losses(v: Tensor) -> dict[str, LossSum]:
    return {
        "mean": pairwise_ranking(v, RESPONSE, PAIRS, "mean"),
        "last": pairwise_ranking(v, RESPONSE, PAIRS, "last"),
        "hinge": pairwise_ranking(v, RESPONSE, PAIRS, margin=1.0),
        "squared": lambda_return(v, MASK, OUTCOMES, 0.9, 0.5),
        "huber": lambda_return(v, MASK, OUTCOMES, 0.9, 0.5, huber_delta=1.0),
        "outcome": outcome(v, MASK, OUTCOMES),
        "implicit": implicit(v, values(2), RESPONSE, PAIRS, ImplicitConfig()),
        "implicit, absolute": implicit(v, values(2), RESPONSE, PAIRS, ImplicitConfig(form="absolute")),
    }


NAMES = list(all_losses(values()))


@pytest.mark.parametrize("name", NAMES)
def test_what_padding_and_prompt_hold_never_matters(name: str) -> None:
    clean, noisy = values().requires_grad_(), values().masked_fill(~MASK, math.nan).requires_grad_()
    (expected, _), (loss, _) = all_losses(clean)[name], all_losses(noisy)[name]
    assert torch.equal(loss, expected)
    (gradient,) = torch.autograd.grad(loss, noisy)
    assert torch.equal(gradient, torch.autograd.grad(expected, clean)[0])
    assert float(gradient[~MASK].abs().sum()) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.0, 1e6, 1e15])
def test_gradients_are_finite_at_extreme_values(name: str, scale: float) -> None:
    v = (values().float() * scale).requires_grad_()
    loss, _ = all_losses(v)[name]
    assert bool(loss.isfinite())
    assert bool(torch.autograd.grad(loss, v)[0].isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_fp32(name: str) -> None:
    v = values().bfloat16()
    loss, _ = all_losses(v)[name]
    assert loss.dtype == torch.float32
    assert torch.equal(loss, all_losses(v.float())[name][0])


def test_splitting_a_batch_by_pairs_changes_neither_sum_nor_count() -> None:
    v = values()
    whole = (
        pairwise_ranking(v, RESPONSE, PAIRS[:2]),
        outcome(v, MASK, OUTCOMES),
        lambda_return(v, MASK, OUTCOMES, 1, 0.9),
    )
    halves = []
    for half in (slice(0, 2), slice(2, 4)):
        pair, mask = torch.tensor([[0, 1]]), MASK[half]
        losses = pairwise_ranking(v[half], RESPONSE[half], pair), outcome(v[half], mask, OUTCOMES[half])
        halves.append((*losses, lambda_return(v[half], mask, OUTCOMES[half], 1, 0.9)))
    for number, (loss, count) in enumerate(whole):
        assert sum(float(half[number][0]) for half in halves) == pytest.approx(float(loss), rel=1e-6)
        assert sum(float(half[number][1]) for half in halves) == float(count)


def test_no_pairs_give_zero_and_a_gradient_of_zero() -> None:
    v = values().requires_grad_()
    loss, count = pairwise_ranking(v, RESPONSE, torch.zeros(0, 2, dtype=torch.int64))
    assert float(loss.detach()) == float(count) == 0
    assert float(torch.autograd.grad(loss, v)[0].abs().sum()) == 0


def test_lambda_moves_linearly_from_its_start() -> None:
    config = LambdaReturnConfig(lam=0.9, lam_start=1.0, lam_steps=4)
    assert [config.lam_at(step) for step in (0, 2, 4, 9)] == pytest.approx([1.0, 0.95, 0.9, 0.9])
    assert LambdaReturnConfig(lam=0.9).lam_at(0) == 0.9


@pytest.mark.parametrize("options", [{"lam_start": 1.0}, {"lam_steps": 5}])
def test_half_a_lambda_schedule_is_refused(options: dict) -> None:
    with pytest.raises(UserError, match=r"lam_start=.* and lam_steps=.* belong together: give both or neither"):
        validated(LambdaReturnConfig, options)
