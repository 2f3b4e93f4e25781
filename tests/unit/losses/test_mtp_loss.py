"""The policy's loss against naive indexing, and its invariants."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from weighted_mtp.data.batches import Batch
from weighted_mtp.errors import UserError
from weighted_mtp.losses.mtp_loss import LossConfig, MTPSums, mtp_loss
from weighted_mtp.models.mtp import MTPForCausalLM

B, T, H, V = 3, 9, 4, 17
FIRST_HEAD = {"confidence": "first_head"}


@pytest.fixture(scope="module")
def model() -> MTPForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return MTPForCausalLM.from_base(LlamaForCausalLM(config), H, "random").eval()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, V, (B, T), generator=generator)
    lengths, starts = torch.tensor([9, 6, 7]), torch.tensor([3, 1, 5])
    position = torch.arange(T)
    real = position < lengths[:, None]
    marks = torch.zeros_like(ids, dtype=torch.uint8)
    return Batch(ids, real, real & (position >= starts[:, None]), torch.arange(B), marks)


def loss(model: MTPForCausalLM, batch: Batch, weights: torch.Tensor, config: LossConfig | None = None) -> MTPSums:
    config = config or LossConfig()
    states = model.head_states(batch.input_ids, detach_extra=config.detach_extra_heads)
    return mtp_loss(model, states, batch, weights, config)


def naive(model: MTPForCausalLM, batch: Batch, weights: torch.Tensor, config: LossConfig) -> tuple[float, float]:
    """The weighted loss, one (b, t, k) at a time, from full logits."""
    c = config.head_coefficients or (1.0,) * H
    with torch.no_grad():
        logits = model.unembed(model.head_states(batch.input_ids, batch.attention_mask))
    total = count = 0.0
    for b in range(B):
        for t in range(T):
            for k in range(1, H + 1):
                if t + k >= T or not batch.response_mask[b, t + k]:
                    continue
                position = t + k if config.alignment == "target" else t
                w = float(weights[b, position] if weights.dim() == 2 else weights[b, position, k - 1])
                ce = float(F.cross_entropy(logits[k - 1, b, t], batch.input_ids[b, t + k]))
                if config.confidence is not None:
                    head, at = (k - 1, t) if config.confidence == "each_head" else (0, t + k - 1)
                    p = float(logits[head, b, at].softmax(-1)[batch.input_ids[b, t + k]])
                    w *= p**config.confidence_power
                total += c[k - 1] * w * ce
                count += c[k - 1] * (w if config.normalization == "weights" else 1.0)
    return total, count


@pytest.mark.parametrize("shape", [(B, T), (B, T, H)])
@pytest.mark.parametrize("alignment", ["target", "source"])
@pytest.mark.parametrize("normalization", ["weights", "tokens"])
@pytest.mark.parametrize("coefficients", [None, (1.0, 0.5, 0.25, 0.0)])
@pytest.mark.parametrize("confidence", [{}, {"confidence": "each_head", "confidence_power": 0.5}, FIRST_HEAD], ids=str)
def test_sum_and_count_equal_naive_indexing(
    model: MTPForCausalLM,
    batch: Batch,
    shape: tuple[int, ...],
    alignment: str,
    normalization: str,
    coefficients: tuple,
    confidence: dict,
) -> None:
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    config = LossConfig(alignment=alignment, normalization=normalization, head_coefficients=coefficients, **confidence)
    sums = loss(model, batch, weights, config)
    total, count = naive(model, batch, weights, config)
    assert sums.loss.item() == pytest.approx(total, rel=1e-5)
    assert sums.count.item() == pytest.approx(count, rel=1e-6)


def test_uniform_weights_give_the_plain_mean_cross_entropy_of_each_head(model: MTPForCausalLM, batch: Batch) -> None:
    sums = loss(model, batch, torch.ones(B, T))
    logits = model.unembed(model.head_states(batch.input_ids, batch.attention_mask)).detach()
    for k in range(1, H + 1):
        targets = batch.input_ids.masked_fill(~batch.response_mask, -100)[:, k:]
        expected = F.cross_entropy(logits[k - 1][:, :-k].flatten(0, 1), targets.flatten())
        torch.testing.assert_close(sums.ce[k - 1] / sums.tokens[k - 1], expected)
    torch.testing.assert_close(sums.loss.detach() / sums.count, sums.ce.sum() / sums.tokens.sum())


def gradients(model: MTPForCausalLM, parts: list[Batch], weights: list[torch.Tensor]) -> list[torch.Tensor]:
    model.zero_grad()
    count = 0.0
    for part, w in zip(parts, weights, strict=True):
        sums = loss(model, part, w)
        sums.loss.backward()
        count += float(sums.count)
    return [p.grad / count for p in model.parameters()]


def test_the_gradient_under_confidence_is_that_of_the_probability(model: MTPForCausalLM, batch: Batch) -> None:
    model.zero_grad()
    loss(model, batch, torch.ones(B, T), LossConfig(confidence="each_head")).loss.backward()
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    probabilities = model.unembed(model.head_states(batch.input_ids)).softmax(-1)
    total = torch.zeros(())
    for b, s in batch.response_mask.nonzero().tolist():
        for k in range(1, min(H, s) + 1):
            total = total - probabilities[k - 1, b, s - k, batch.input_ids[b, s]]
    total.backward()
    for p, gradient in zip(model.parameters(), got, strict=True):
        torch.testing.assert_close(gradient, p.grad, rtol=1e-4, atol=1e-6)


def test_a_power_of_no_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"confidence_power=2\.0 has no effect without confidence"):
        LossConfig(confidence_power=2.0)


def test_splitting_a_batch_into_microbatches_changes_no_gradient(model: MTPForCausalLM, batch: Batch) -> None:
    weights = torch.rand(B, T, generator=torch.Generator().manual_seed(3))
    whole = gradients(model, [batch], [weights])
    parts = [batch.rows([i]) for i in range(B)]
    split = gradients(model, parts, list(weights.split(1)))
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_padding_content_changes_nothing(model: MTPForCausalLM, batch: Batch) -> None:
    weights = torch.ones(B, T)
    other = replace(batch, input_ids=batch.input_ids.masked_fill(~batch.attention_mask, 5))
    assert torch.equal(loss(model, batch, weights).ce, loss(model, other, weights).ce)


def test_weights_outside_the_response_change_nothing(model: MTPForCausalLM, batch: Batch) -> None:
    weights = torch.rand(B, T)
    other = weights.masked_fill(~batch.response_mask, 1e6)
    assert torch.equal(loss(model, batch, weights).loss, loss(model, batch, other).loss)


def test_a_batch_without_response_gives_zero_and_finite_gradients(model: MTPForCausalLM, batch: Batch) -> None:
    empty = replace(batch, response_mask=torch.zeros_like(batch.response_mask))
    model.zero_grad()
    sums = loss(model, empty, torch.ones(B, T))
    sums.loss.backward()
    assert sums.loss.item() == sums.count.item() == 0
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_detached_extra_heads_leave_the_trunk_with_head_one_alone(model: MTPForCausalLM, batch: Batch) -> None:
    weights = torch.ones(B, T)
    layer = next(p for n, p in model.named_parameters() if "layers.0" in n)
    model.zero_grad()
    loss(model, batch, weights, LossConfig(detach_extra_heads=True)).loss.backward()
    detached = layer.grad.clone()
    model.zero_grad()
    loss(model, batch, weights, LossConfig(head_coefficients=(1.0, 0.0, 0.0, 0.0))).loss.backward()
    torch.testing.assert_close(detached, layer.grad)


def test_a_wrong_number_of_head_coefficients_is_refused(model: MTPForCausalLM, batch: Batch) -> None:
    with pytest.raises(UserError, match="head_coefficients has 2 entries, but the policy has 4 heads"):
        loss(model, batch, torch.ones(B, T), LossConfig(head_coefficients=(1.0, 1.0)))
