"""Per-token cross-entropies against full logits, in value and gradient."""

import pytest
import torch
from tiny_models import VOCABULARY, padded_batch, tiny_model
from torch.nn import functional as F

from weighted_mtp.data.batches import Batch
from weighted_mtp.losses.linear_ce import linear_cross_entropy
from weighted_mtp.losses.token_ce import head_cross_entropies, next_token_cross_entropies
from weighted_mtp.models.mtp import MTPForCausalLM, Unembedding

H = 3


def policy(architecture: str = "llama_tied") -> MTPForCausalLM:
    return MTPForCausalLM.from_base(tiny_model(architecture), H, "random")


def batch() -> Batch:
    ids, real = padded_batch()
    response = real & (torch.arange(ids.shape[1]) >= torch.tensor([2, 4])[:, None])
    return Batch(ids, real, response, torch.arange(2), torch.zeros_like(ids, dtype=torch.uint8))


@pytest.mark.parametrize("architecture", ["llama_tied", "gemma2"])
def test_every_heads_cross_entropy_stands_at_its_target(architecture: str) -> None:
    model, data = policy(architecture), batch()
    with torch.no_grad():
        ce = head_cross_entropies(model, data)
        logits = model.unembed(model.head_states(data.input_ids, data.attention_mask))
    expected = torch.zeros(2, 11, H)
    for b, s in data.response_mask.nonzero().tolist():
        for k in range(1, H + 1):
            if s >= k:
                expected[b, s, k - 1] = F.cross_entropy(logits[k - 1, b, s - k], data.input_ids[b, s])
    torch.testing.assert_close(ce, expected, rtol=1e-5, atol=1e-5)


def test_the_next_tokens_cross_entropy_is_head_ones_and_that_of_the_plain_model() -> None:
    data = batch()
    with torch.no_grad():
        ce = next_token_cross_entropies(policy(), data)
        assert torch.equal(ce, head_cross_entropies(policy(), data)[..., 0])
        plain = MTPForCausalLM.from_base(tiny_model("llama_tied"), 1)
        assert torch.equal(ce, next_token_cross_entropies(plain, data))


def test_gradients_equal_those_through_full_logits() -> None:
    model, data = policy(), batch()
    scale = torch.randn(data.input_ids.shape, generator=torch.Generator().manual_seed(0))
    loss = (scale * next_token_cross_entropies(model, data)).sum()
    logits = model(input_ids=data.input_ids, attention_mask=data.attention_mask).logits[:, :-1]
    full = F.cross_entropy(logits.flatten(0, 1), data.input_ids[:, 1:].flatten(), reduction="none").reshape(2, -1)
    expected = (scale[:, 1:] * full)[data.response_mask[:, 1:]].sum()
    trunk = list(model.trunk_parameters())
    for got, wanted in zip(torch.autograd.grad(loss, trunk), torch.autograd.grad(expected, trunk), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_no_chunk_of_logits_is_kept_for_backward() -> None:
    unembedding = Unembedding(torch.randn(VOCABULARY, 8, requires_grad=True))
    kept: list[int] = []
    hidden, targets = torch.randn(40, 8, requires_grad=True), torch.zeros(40, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        linear_cross_entropy(hidden, torch.arange(40), targets, unembedding, chunk=10)
    assert max(kept, default=0) < 10 * VOCABULARY
