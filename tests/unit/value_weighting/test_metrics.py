"""Metrics against their definitions, and their sums against the whole."""

import pytest
import torch

from weighted_mtp.value_weighting.metrics import calibration, localisation_auc, pair_accuracy

GENERATOR = torch.Generator().manual_seed(0)


def test_pair_accuracy_counts_the_pairs_in_the_right_order_and_half_of_the_ties() -> None:
    scores = torch.tensor([2.0, 1.0, 1.0, 3.0])
    right, count = pair_accuracy(scores, torch.tensor([[0, 1], [1, 2], [1, 3], [3, 0]]))
    assert (float(right), float(count)) == (2.5, 4)


def naive_auc(delta: list[float], wrong: int) -> float:
    others = [d for t, d in enumerate(delta) if t != wrong]
    return sum(1.0 if d > delta[wrong] else 0.5 if d == delta[wrong] else 0.0 for d in others) / len(others)


def test_localisation_is_the_share_of_other_response_tokens_above_the_first_wrong_one() -> None:
    lengths, firsts = [9, 6, 4], [3, 0, 3]
    delta = torch.randint(-2, 3, (3, 12), generator=GENERATOR).float()
    response, wrong = torch.zeros(3, 12, dtype=torch.bool), 2 + torch.tensor(firsts)
    expected = 0.0
    for row, (length, first) in enumerate(zip(lengths, firsts, strict=True)):
        response[row, 2 : 2 + length] = True
        expected += naive_auc(delta[row, 2 : 2 + length].tolist(), first)
    auc, programs = localisation_auc(delta.masked_fill(~response, -9.0), response, wrong)
    assert float(auc) == pytest.approx(expected)
    assert int(programs) == 3


def test_a_perfect_critic_has_auc_one_a_blind_one_a_half_and_an_inverted_one_zero() -> None:
    response = torch.ones(1, 5, dtype=torch.bool)
    wrong = torch.tensor([2])
    perfect = torch.tensor([[0.0, 0.1, -1.0, -0.9, 0.0]])
    for delta, expected in [(perfect, 1.0), (torch.zeros(1, 5), 0.5), (-perfect, 0.0)]:
        assert float(localisation_auc(delta, response, wrong)[0]) == expected


def test_programs_with_nothing_to_compare_are_left_out() -> None:
    response = torch.tensor([[False, True, True], [False, True, True], [False, False, True]])
    wrong = torch.tensor([-1, 0, 2])  # unknown, in the prompt, and the only token there is
    auc, programs = localisation_auc(torch.zeros(3, 3), response, wrong)
    assert (float(auc), int(programs)) == (0.0, 0)


def predictions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    probabilities = torch.rand(8, 10, generator=GENERATOR)
    outcomes = (torch.arange(8) % 2).float()[:, None].expand(8, 10)
    return probabilities, outcomes, torch.rand(8, 10, generator=GENERATOR) > 0.3


def test_each_bin_of_a_calibration_holds_what_lies_in_it() -> None:
    probabilities, outcomes, mask = predictions()
    p, y = probabilities[mask].numpy(), outcomes[mask].numpy()
    for k, (predicted, happened, n) in enumerate(zip(*calibration(probabilities, outcomes, mask), strict=True)):
        inside = (p >= k / 10) & (p < (k + 1) / 10)
        assert int(n) == inside.sum()
        assert float(predicted) == pytest.approx(p[inside].sum(), abs=1e-6)
        assert float(happened) == pytest.approx(y[inside].sum(), abs=1e-6)


def test_certain_predictions_stay_in_the_last_bin() -> None:
    ones = torch.ones(2, 3)
    outcomes = torch.tensor([[1.0], [0.0]]).expand(2, 3)
    predicted, happened, n = calibration(ones, outcomes, ones.bool())
    assert predicted.tolist() == n.tolist() == [0] * 9 + [6]
    assert happened.tolist() == [0] * 9 + [3]


def test_calibrations_add_up() -> None:
    p, y, mask = predictions()
    first, second = (calibration(p[rows], y[rows], mask[rows]) for rows in (slice(0, 3), slice(3, 8)))
    for one, other, whole in zip(first, second, calibration(p, y, mask), strict=True):
        torch.testing.assert_close(one + other, whole)
