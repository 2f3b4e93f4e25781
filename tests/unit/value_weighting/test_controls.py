"""Controls keep what they promise of the weights they stand in for, and nothing else."""

from collections.abc import Sequence

import pytest
import torch
from small_batches import batch_of, by_sample, look_up, splits, table
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.value_weighting.base import ObjectiveState, TokenWeighting
from weighted_mtp.value_weighting.confidence import TimesConfidence
from weighted_mtp.value_weighting.controls import PositionMatched, RandomMatched, Shuffled, Uniform
from weighted_mtp.value_weighting.td import TDConfig, TDWeighting

Control = type[Shuffled] | type[RandomMatched] | type[PositionMatched]
CONTROLS = [Shuffled, RandomMatched, PositionMatched]
WEIGHTS = {"(B, T)": table(seed=3), "(B, T, H)": table(4, seed=3)}


class Known:
    """Weights looked up by sample id and position, and a state that counts calls."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def initial_state(self) -> ObjectiveState:
        return {"calls": torch.tensor(0)}

    def __call__(self, batches: Sequence[Batch], state: ObjectiveState) -> tuple[list[Tensor], ObjectiveState]:
        return [look_up(self.weights, batch) for batch in batches], {"calls": state["calls"] + 1}


def first_step(weighting: TokenWeighting, parts: Sequence[Batch]) -> list[Tensor]:
    return weighting(parts, weighting.initial_state())[0]


def sorted_rows(weights: Tensor) -> list:
    return sorted(weights.tolist())


@pytest.mark.parametrize("shape", WEIGHTS)
def test_shuffling_keeps_the_multiset_of_each_samples_response(shape: str) -> None:
    batch, inner = batch_of(), Known(WEIGHTS[shape])
    before = by_sample([batch], first_step(inner, [batch]))
    after = by_sample([batch], first_step(Shuffled(inner, 0), [batch]))
    assert all(sorted_rows(after[name]) == sorted_rows(before[name]) for name in before)
    assert sum(not torch.equal(after[name], before[name]) for name in before) >= 3


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("shape", WEIGHTS)
def test_prompt_and_padding_are_left_alone(control: Control, shape: str) -> None:
    batch, inner = batch_of(), Known(WEIGHTS[shape])
    (before,), (after,) = first_step(inner, [batch]), first_step(control(inner, 0), [batch])
    assert torch.equal(after[~batch.response_mask], before[~batch.response_mask])


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("shape", WEIGHTS)
def test_splitting_into_microbatches_changes_nothing(control: Control, shape: str) -> None:
    weighting = control(Known(WEIGHTS[shape]), 7)
    whole, *others = (by_sample(parts, first_step(weighting, parts)) for parts in splits(batch_of()))
    for other in others:
        assert all(torch.equal(other[name], expected) for name, expected in whole.items())


@pytest.mark.parametrize("control", CONTROLS)
def test_draws_differ_by_seed_step_and_sample_and_repeat_otherwise(control: Control) -> None:
    batch = batch_of((12, 12, 12), (2, 2, 2))
    flat = torch.arange(16.0).expand(64, 16).clone()
    flat[12] += 100  # the third sample's weights differ, so that one sees from whom a token's are
    weighting = control(Known(flat), 0)
    first, state = weighting([batch], weighting.initial_state())
    second, _ = weighting([batch], state)
    again, _ = weighting([batch], weighting.initial_state())
    other_seed = first_step(control(Known(flat), 1), [batch])
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other_seed[0])
    assert not torch.equal(first[0][0], first[0][1])


@pytest.mark.parametrize("shape", WEIGHTS)
def test_random_matched_draws_from_the_batchs_own_distribution(shape: str) -> None:
    batch = batch_of((16,) * 50, (1,) * 50)
    inner = Known(WEIGHTS[shape])
    pool = first_step(inner, [batch])[0][batch.response_mask]
    drawn = first_step(RandomMatched(inner, 0), [batch])[0][batch.response_mask]
    rows = {tuple(row) for row in pool.reshape(len(pool), -1).tolist()}
    assert all(tuple(row) in rows for row in drawn.reshape(len(drawn), -1).tolist())
    quantiles = torch.linspace(0.05, 0.95, 19)
    error = (drawn.flatten().quantile(quantiles) - pool.flatten().quantile(quantiles)).abs().max()
    assert float(error) < 0.25  # 750 draws from a standard normal: some 4 standard errors in the tails


def test_random_matched_forgets_which_sample_a_weight_belonged_to() -> None:
    batch = batch_of((16, 16), (1, 1))
    weights = torch.zeros(64, 16)
    weights[10] = 1.0
    drawn = first_step(RandomMatched(Known(weights), 0), [batch])[0]
    assert 0 < float(drawn[0, 1:].mean()) < 1
    assert 0 < float(drawn[1, 1:].mean()) < 1


@pytest.mark.parametrize("control", CONTROLS)
def test_the_wrapped_weightings_state_goes_on_inside(control: Control) -> None:
    weighting = control(control(Known(WEIGHTS["(B, T)"]), 0), 0)
    state = weighting.initial_state()
    for _ in range(3):
        _, state = weighting([batch_of()], state)
    assert {name: int(value) for name, value in state.items()} == {"step": 3, "inner.step": 3, "inner.inner.calls": 3}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_discarded_state_changes_no_later_step(control: Control) -> None:
    weighting = control(TDWeighting(TDConfig(), lambda batch: look_up(table(), batch)), 0)
    _, state = weighting([batch_of()], weighting.initial_state())
    expected, _ = weighting([batch_of()], state)
    weighting([batch_of((8, 6), (2, 3), first_id=40)], state)  # a validation
    assert torch.equal(weighting([batch_of()], state)[0][0], expected[0])


@pytest.mark.parametrize("control", CONTROLS)
def test_the_wrapped_weights_themselves_are_not_written_to(control: Control) -> None:
    class Remembered(Known):
        def __call__(self, batches: Sequence[Batch], state: ObjectiveState) -> tuple[list[Tensor], ObjectiveState]:
            return [self.weights], state

    batch, weights = batch_of((16, 16), (1, 1)), torch.arange(32.0).reshape(2, 16)
    first_step(control(Remembered(weights), 0), [batch])
    assert torch.equal(weights, torch.arange(32.0).reshape(2, 16))


def test_position_matched_draws_from_the_same_relative_position_of_any_sample() -> None:
    relative = torch.arange(16.0).expand(64, 16) + 100.0 * torch.arange(64.0)[:, None]  # says sample and position
    batch = batch_of()
    drawn = by_sample([batch], first_step(PositionMatched(Known(relative), 0), [batch]))
    starts = {s.sample_id: s.start for s in batch.spans}
    lengths = {s.sample_id: s.end - s.start for s in batch.spans}
    donors = set()
    for sample_id, weights in drawn.items():
        for i, w in enumerate(weights.tolist()):
            donor, position = divmod(int(w), 100)
            assert position - starts[donor] == int((i + 0.5) / lengths[sample_id] * lengths[donor])
            donors.add(donor)
    assert donors == lengths.keys()


@pytest.mark.parametrize("head", ["each_head", "first_head"])
def test_confidence_before_the_loss_is_the_power_of_the_heads_probability(head: str) -> None:
    ce, inner = table(4, seed=5).abs(), Known(table(seed=6))
    batch = batch_of()
    (weights,) = first_step(TimesConfidence(inner, lambda b: look_up(ce, b), head, 0.5), [batch])
    own = look_up(ce, batch) if head == "each_head" else look_up(ce, batch)[..., :1].expand(-1, -1, 4)
    torch.testing.assert_close(weights, (-own / 2).exp() * look_up(table(seed=6), batch)[..., None])
    (plain,) = first_step(TimesConfidence(Uniform(), lambda b: look_up(ce, b), head, 1.0), [batch])
    torch.testing.assert_close(plain, (-own).exp())
