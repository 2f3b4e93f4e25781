"""What is said of a step: of the whole step, however it is split."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tiny_models import padded_batch, tiny_model
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.losses.mtp_loss import LossConfig
from weighted_mtp.losses.objective import PolicyObjective, Sums
from weighted_mtp.losses.token_ce import head_cross_entropies
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.training.updates import _divide, _over_ranks
from weighted_mtp.value_weighting.base import ObjectiveState
from weighted_mtp.value_weighting.confidence import TimesConfidence
from weighted_mtp.value_weighting.controls import Shuffled, Uniform

BOUNDS = (0.5, 2.0)
H = 3


def batch() -> Batch:
    ids, real = padded_batch()
    response = real & (torch.arange(ids.shape[1]) >= torch.tensor([H, 4])[:, None])
    marks = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.4).to(torch.uint8)
    return Batch(ids, real, response, torch.arange(2), marks)


def rows(whole: Batch) -> list[Batch]:
    return [whole.rows([i]) for i in range(2)]


class ById:
    """Fixed weights of two samples, between `BOUNDS`."""

    bounds = BOUNDS

    def __init__(self, *shape: int) -> None:
        self.weights = torch.randn(shape, generator=torch.Generator().manual_seed(0)).exp().clamp(*BOUNDS)

    def initial_state(self) -> ObjectiveState:
        return {}

    def __call__(self, batches: Sequence[Batch], state: ObjectiveState) -> tuple[list[Tensor], ObjectiveState]:
        return [self.weights[batch.sample_ids] for batch in batches], state


def model() -> MTPForCausalLM:
    return MTPForCausalLM.from_base(tiny_model("llama_tied"), H, "random")


def sums_of(objective: PolicyObjective, policy: MTPForCausalLM, parts: Sequence[Batch]) -> list[Sums]:
    items, _ = objective.prepare(parts, objective.initial_state())
    return [objective.sums(policy, item) for item in items]


def logged(objective: PolicyObjective, policy: MTPForCausalLM, parts: Sequence[Batch]) -> dict[str, float]:
    """What the loop would log of a step."""
    return objective.summary(_divide(_over_ranks(sums_of(objective, policy, parts))))


@pytest.mark.parametrize("shape", [(2, 11), (2, 11, H)])
def test_statistics_of_weights_are_those_of_the_whole_step_however_it_is_split(shape: tuple[int, ...]) -> None:
    whole, weighting = batch(), ById(*shape)
    w = weighting.weights[whole.response_mask].double()
    inner = w[whole.marks[whole.response_mask] > 0]
    expected = {
        "weight/mean": w.mean(),
        "weight/std": w.std(correction=0),
        "weight/effective_share": w.sum() ** 2 / (w**2).sum() / w.numel(),
        "weight/clipped_share": ((w == 0.5) | (w == 2.0)).double().mean(),
        "weight/semantic_share": inner.sum() / w.sum(),
        "weight/semantic_token_share": (whole.marks[whole.response_mask] > 0).double().mean(),
    }
    for parts in ([whole], rows(whole)):
        found = logged(PolicyObjective(weighting, LossConfig()), model(), parts)
        assert {name: found[name] for name in expected} == {n: pytest.approx(float(v)) for n, v in expected.items()}


def test_statistics_without_meaning_are_left_out() -> None:
    unmarked = replace(batch(), marks=torch.zeros_like(batch().marks))
    found = logged(PolicyObjective(Uniform(), LossConfig()), model(), [unmarked])
    of_weights = {name for name in found if name.startswith("weight/") and "head" not in name}
    assert of_weights == {"weight/mean", "weight/std", "weight/effective_share"}
    empty = replace(unmarked, response_mask=torch.zeros_like(unmarked.response_mask))
    assert logged(PolicyObjective(Uniform(), LossConfig()), model(), [empty]) == {"loss": 0.0}


def test_confidence_is_part_of_the_reported_weights_and_not_of_the_clipped_ones() -> None:
    weighting, policy = ById(2, 11), model()
    plain = logged(PolicyObjective(weighting, LossConfig()), policy, [batch()])
    scaled = logged(PolicyObjective(weighting, LossConfig(confidence="each_head")), policy, [batch()])
    assert scaled["weight/mean"] < 0.5 * plain["weight/mean"]
    assert scaled["weight/clipped_share"] == plain["weight/clipped_share"]


def test_acceptance_is_reported_and_the_loss_unweighted_only_outside_training() -> None:
    coefficients = LossConfig(head_coefficients=(1.0, 0.5, 0.0), confidence="first_head")
    weighted, uniform = ById(2, 11), Uniform()
    policy = model()
    for training in (False, True):
        policy.train(training)
        found = logged(PolicyObjective(Shuffled(weighted, 0), coefficients), policy, rows(batch()))
        plain = logged(PolicyObjective(uniform, LossConfig(head_coefficients=(1.0, 0.5, 0.0))), policy, [batch()])
        assert ("acceptance/head3" in found) is not training
        assert "acceptance/head1" not in found
        assert (found["loss"] == pytest.approx(plain["loss"])) is not training


@pytest.mark.parametrize("head", ["each_head", "first_head"])
def test_confidence_in_the_loss_equals_confidence_computed_before_it(head: str) -> None:
    policy, weighting = model().train(), ById(2, 11)
    explicit = TimesConfidence(weighting, lambda b: head_cross_entropies(policy, b), head, 0.5)
    in_loss = LossConfig(confidence=head, confidence_power=0.5)
    found = [
        sums_of(objective, policy, [batch()])[0]
        for objective in (PolicyObjective(weighting, in_loss), PolicyObjective(explicit, LossConfig()))
    ]
    torch.testing.assert_close(found[0].loss, found[1].loss)
    torch.testing.assert_close(found[0].count, found[1].count)
    for grads in zip(*(torch.autograd.grad(s.loss, list(policy.parameters())) for s in found), strict=True):
        torch.testing.assert_close(*grads)
