"""What is said of the weights of a step: of the whole step, however it is split."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tiny_models import padded_batch, tiny_model
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.losses.mtp import LossConfig
from weighted_mtp.losses.objective import PolicyObjective, weight_statistics
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.value_weighting.controls import Shuffled, Uniform

BOUNDS = (0.5, 2.0)
GENERATOR = torch.Generator().manual_seed(0)


def batch() -> Batch:
    ids, real = padded_batch()
    response = real & (torch.arange(ids.shape[1]) >= torch.tensor([2, 4])[:, None])
    marks = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.4).to(torch.uint8)
    return Batch(ids, real, response, torch.arange(2), marks)


def rows(whole: Batch) -> list[Batch]:
    return [Batch(**{name: value[i : i + 1] for name, value in vars(whole).items()}) for i in range(2)]


@pytest.mark.parametrize("shape", [(2, 11), (2, 11, 3)])
def test_statistics_are_those_of_the_whole_step_however_it_is_split(shape: tuple[int, ...]) -> None:
    whole, weights = batch(), torch.randn(shape, generator=GENERATOR).exp().clamp(*BOUNDS)
    w = weights[whole.response_mask].double()
    inner = w[whole.marks[whole.response_mask] > 0]
    expected = {
        "weight/mean": w.mean(),
        "weight/std": w.std(correction=0),
        "weight/effective_share": w.sum() ** 2 / (w**2).sum() / w.numel(),
        "weight/clipped_share": ((w == 0.5) | (w == 2.0)).double().mean(),
        "weight/semantic_share": inner.sum() / w.sum(),
        "weight/semantic_token_share": inner.numel() / w.numel(),
    }
    for parts, split in (([whole], [weights]), (rows(whole), weights.split(1))):
        statistics = weight_statistics(parts, split, BOUNDS)
        assert statistics == {name: pytest.approx(float(value)) for name, value in expected.items()}


def test_what_has_no_meaning_is_left_out() -> None:
    unmarked = replace(batch(), marks=torch.zeros_like(batch().marks))
    ones = [torch.ones(2, 11)]
    assert weight_statistics([unmarked], ones, None).keys() == {"weight/mean", "weight/std", "weight/effective_share"}
    empty = replace(unmarked, response_mask=torch.zeros_like(unmarked.response_mask))
    assert weight_statistics([empty], ones, BOUNDS) == {}


class Bounded(Uniform):
    bounds = BOUNDS


def records(objective: PolicyObjective, model: MTPForCausalLM, parts: Sequence[Batch]) -> list[dict[str, Tensor]]:
    items, _ = objective.prepare(parts, objective.initial_state())
    return [objective.sums(model, item).metrics for item in items]


def test_every_microbatch_reports_the_steps_statistics_and_acceptance_only_outside_training() -> None:
    model = MTPForCausalLM.from_base(tiny_model("llama_tied"), 3, "random")
    objective = PolicyObjective(Shuffled(Bounded(), 0), LossConfig())
    for training in (False, True):
        for metrics in records(objective, model.train(training), rows(batch())):
            assert metrics["weight/mean"] == (1, 1)
            assert metrics["weight/clipped_share"] == (0, 1)
            assert ("acceptance/head3" in metrics) is not training
            assert "acceptance/head1" not in metrics
