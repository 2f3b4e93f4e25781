"""The one-pass cross-entropy equals the obvious one, in value and in every gradient."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weighted_mtp.losses.linear_ce import weighted_linear_cross_entropy


def example(n: int = 13, bias: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, nn.Linear]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 8, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 11, (n,), generator=generator)
    weights = torch.rand(n, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    return hidden, targets, weights, nn.Linear(8, 11, bias=bias).double()


@pytest.mark.parametrize("chunk", [1, 4, 13, 100])
def test_value_and_gradients_equal_the_plain_computation(chunk: int) -> None:
    hidden, targets, weights, unembed = example()
    plain = hidden.clone().requires_grad_()
    expected = (weights * F.cross_entropy(unembed(plain), targets, reduction="none")).sum()
    expected_grads = torch.autograd.grad(3 * expected, [plain, *unembed.parameters()])
    chunked = hidden.clone().requires_grad_()
    total, _ = weighted_linear_cross_entropy(chunked, targets, weights, unembed, list(unembed.parameters()), chunk)
    grads = torch.autograd.grad(3 * total, [chunked, *unembed.parameters()])
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-6)


def test_per_token_values_are_unweighted_and_carry_no_gradient() -> None:
    hidden, targets, weights, unembed = example()
    _, ce = weighted_linear_cross_entropy(hidden.requires_grad_(), targets, weights, unembed, [])
    expected = F.cross_entropy(unembed(hidden), targets, reduction="none")
    torch.testing.assert_close(ce.double(), expected.detach(), rtol=1e-6, atol=1e-6)
    assert not ce.requires_grad


def test_a_frozen_unembedding_gets_no_gradient_and_the_hidden_states_do() -> None:
    hidden, targets, weights, unembed = example()
    unembed.requires_grad_(False)
    total, _ = weighted_linear_cross_entropy(
        hidden.requires_grad_(), targets, weights, unembed, list(unembed.parameters())
    )
    total.backward()
    assert unembed.weight.grad is None
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0


def test_without_gradient_the_sum_is_the_same() -> None:
    hidden, targets, weights, unembed = example()
    with torch.no_grad():
        alone, _ = weighted_linear_cross_entropy(hidden, targets, weights, unembed, list(unembed.parameters()), 4)
    total, _ = weighted_linear_cross_entropy(hidden, targets, weights, unembed, list(unembed.parameters()), 4)
    torch.testing.assert_close(alone, total.detach())


def test_no_targets_give_zero_and_no_nan() -> None:
    hidden, targets, weights, unembed = example(n=0)
    hidden.requires_grad_()
    total, ce = weighted_linear_cross_entropy(hidden, targets, weights, unembed, list(unembed.parameters()))
    total.backward()
    assert total.item() == 0
    assert len(ce) == 0
    assert torch.equal(unembed.weight.grad, torch.zeros_like(unembed.weight))


def test_cross_entropy_is_fp32_under_bf16_autocast() -> None:
    hidden, targets, weights, unembed = (x.float() if isinstance(x, nn.Module) else x for x in example())
    hidden = hidden.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total, ce = weighted_linear_cross_entropy(hidden, targets, weights, unembed, list(unembed.parameters()))
        logits = unembed(hidden)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(ce, F.cross_entropy(logits.float(), targets, reduction="none").detach())
    assert total.dtype == torch.float32
