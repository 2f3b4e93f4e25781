"""Rho-1's selection against a plain sort of the whole batch, and its independence of splits."""

import math

import pytest
import torch
from small_batches import batch_of, by_sample, look_up, splits, table
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.value_weighting.rho1 import Mode, Rho1Config, Rho1Weighting, top_tokens

H = 3
POLICY, REFERENCE = table(H, seed=1).abs(), table(seed=2).abs()


def policy_ce(batch: Batch) -> Tensor:
    return look_up(POLICY, batch)


def reference_ce(batch: Batch) -> Tensor:
    return look_up(REFERENCE, batch)


def chosen(config: Rho1Config, parts: list[Batch]) -> dict[int, Tensor]:
    weights, state = Rho1Weighting(config, policy_ce, reference_ce)(parts, {})
    assert state == {}
    return by_sample(parts, weights)


def naive(mode: Mode, k_percent: float, head: int) -> set[tuple[int, int]]:
    """(sample id, position) of the tokens to keep for a 1-based head, by sorting a list."""
    batch, candidates = batch_of(), []
    for row, sample_id in enumerate(batch.sample_ids.tolist()):
        for s in range(batch.input_ids.shape[1]):
            if not batch.response_mask[row, s] or s < head:
                continue
            policy, reference = float(POLICY[sample_id, s, head - 1]), float(REFERENCE[sample_id, s])
            score = {"signed": policy - reference, "absolute": abs(policy - reference), "difficult": reference}[mode]
            candidates.append((score, sample_id, s))
    kept = sorted(candidates, reverse=True)[: round(len(candidates) * k_percent / 100)]
    return {(sample_id, s) for _, sample_id, s in kept}


@pytest.mark.parametrize("mode", ["signed", "absolute"])
@pytest.mark.parametrize("k_percent", [20.0, 60.0, 100.0])
def test_each_head_keeps_its_highest_tokens_of_the_whole_batch(mode: Mode, k_percent: float) -> None:
    batch = batch_of()
    (weights,), _ = Rho1Weighting(Rho1Config(mode=mode, k_percent=k_percent), policy_ce, reference_ce)([batch], {})
    assert weights.shape == (*batch.input_ids.shape, H)
    assert set(weights.unique().tolist()) <= {0.0, 1.0}
    for head in range(1, H + 1):
        kept = {(int(batch.sample_ids[b]), int(s)) for b, s in weights[..., head - 1].nonzero()}
        assert kept == naive(mode, k_percent, head)


def test_difficult_tokens_are_the_references_alone_and_the_policy_is_not_asked() -> None:
    def never(batch: Batch) -> Tensor:
        raise AssertionError("the policy was asked")

    batch = batch_of()
    (weights,), _ = Rho1Weighting(Rho1Config(mode="difficult"), never, reference_ce)([batch], {})
    kept = {(int(batch.sample_ids[b]), int(s)) for b, s in weights.nonzero()}
    assert weights.shape == batch.input_ids.shape
    assert kept == naive("difficult", 60.0, 1)


@pytest.mark.parametrize("mode", ["signed", "absolute", "difficult"])
def test_splitting_into_microbatches_changes_nothing(mode: Mode) -> None:
    whole, *others = (chosen(Rho1Config(mode=mode), parts) for parts in splits(batch_of()))
    for other in others:
        assert all(torch.equal(other[sample_id], expected) for sample_id, expected in whole.items())


def test_ties_go_to_the_smaller_sample_id_and_then_to_the_earlier_token_in_any_split() -> None:
    batch = batch_of((5, 5, 5), (1, 1, 1))
    for parts in splits(batch):
        equal = [torch.zeros(part.response_mask.shape) for part in parts]
        kept = by_sample(parts, top_tokens(equal, parts, 1, 50.0))
        assert {name: value.tolist() for name, value in kept.items()} == {
            10: [True] * 4,
            11: [True, True, False, False],
            12: [False] * 4,
        }


def test_what_padding_and_prompt_hold_never_matters() -> None:
    batch = batch_of()
    valid = batch.response_mask

    def noisy(batch: Batch) -> Tensor:
        return policy_ce(batch).masked_fill(~valid.unsqueeze(-1), math.inf)

    expected = Rho1Weighting(Rho1Config(), policy_ce, reference_ce)([batch], {})[0][0]
    assert torch.equal(Rho1Weighting(Rho1Config(), noisy, reference_ce)([batch], {})[0][0], expected)


def test_a_head_has_no_target_in_its_first_positions() -> None:
    batch = batch_of((4, 6), (0, 0))
    (weights,), _ = Rho1Weighting(Rho1Config(k_percent=100), policy_ce, reference_ce)([batch], {})
    for k in range(1, H + 1):
        assert float(weights[:, :k, k - 1].sum()) == 0
        assert torch.equal(weights[:, k:, k - 1], batch.response_mask[:, k:].float())


def test_a_batch_without_response_selects_nothing() -> None:
    batch = batch_of((4, 4), (4, 4))
    (kept,) = top_tokens([torch.zeros(2, 4)], [batch], 1, 60.0)
    assert not kept.any()


def test_a_tiny_share_keeps_one_token() -> None:
    (kept,) = top_tokens([torch.tensor([[0.0, 3.0, 1.0, 2.0]])], [batch_of((4,), (1,))], 1, 0.1)
    assert kept.tolist() == [[False, True, False, False]]


def test_with_one_selection_all_heads_keep_what_head_one_selects() -> None:
    batch = batch_of()
    config = Rho1Config(selection="first_head", k_percent=40)
    (weights,), _ = Rho1Weighting(config, policy_ce, reference_ce)([batch], {})
    (first,), _ = Rho1Weighting(config, lambda b: policy_ce(b)[..., :1], reference_ce)([batch], {})
    assert torch.equal(weights, first)
    assert {(int(batch.sample_ids[b]), int(s)) for b, s in weights.nonzero()} == naive("signed", 40, 1)


def test_a_selection_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="selection=first_head has no effect with mode=difficult"):
        Rho1Config(mode="difficult", selection="first_head")
