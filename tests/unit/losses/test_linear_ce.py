"""The one-pass cross-entropy equals the obvious one, in value and in every gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from weighted_mtp.losses import linear_ce
from weighted_mtp.losses.linear_ce import (
    Confidence,
    chunk_size,
    greedy_tokens,
    linear_cross_entropy,
    weighted_linear_cross_entropy,
)
from weighted_mtp.models.mtp import Unembedding

N, PLACES, D, V = 13, 20, 8, 11
FORMS = {"plain": (False, None), "bias": (True, None), "cap": (False, 2.0), "bias_and_cap": (True, 2.0)}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


ROWS = torch.randperm(PLACES, generator=torch.Generator().manual_seed(1))[:N]
TARGETS = torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(2))
WEIGHTS = torch.rand(N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def unembedding(form: str = "bias") -> Unembedding:
    bias, cap = FORMS[form]
    return Unembedding(drawn(V, D, seed=4), drawn(V, seed=5) if bias else None, cap)


def plain(states: Tensor, w: Unembedding) -> Tensor:
    """(N,) cross-entropies by PyTorch's own functions."""
    z = F.linear(states.reshape(-1, D)[ROWS], w.weight, w.bias)
    return F.cross_entropy(z if w.cap is None else w.cap * torch.tanh(z / w.cap), TARGETS, reduction="none")


def trained(states: Tensor, w: Unembedding) -> list[Tensor]:
    return [states, w.weight, *([] if w.bias is None else [w.bias])]


def agree(form: str, total: Callable[[Tensor, Unembedding], Tensor], expected: Callable[..., Tensor]) -> None:
    states, w = drawn(4, 5, D), unembedding(form)
    found, wanted = total(states, w), expected(plain(states, w))
    torch.testing.assert_close(found, wanted)
    grads = (torch.autograd.grad(3 * x, trained(states, w)) for x in (found, wanted))
    for grad, of_plain in zip(*grads, strict=True):
        torch.testing.assert_close(grad, of_plain)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [1, 4, 13, 100])
def test_a_weighted_sum_and_its_gradients_equal_the_plain_computation(form: str, chunk: int) -> None:
    def total(states: Tensor, w: Unembedding) -> Tensor:
        return weighted_linear_cross_entropy(states, ROWS, TARGETS, WEIGHTS, w, chunk=chunk).total

    agree(form, total, lambda ce: (WEIGHTS * ce).sum())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [1, 4, 13])
def test_any_function_of_the_cross_entropies_has_the_plain_gradients(form: str, chunk: int) -> None:
    def total(states: Tensor, w: Unembedding) -> Tensor:
        return (WEIGHTS * linear_cross_entropy(states, ROWS, TARGETS, w, chunk) ** 2).sum()

    agree(form, total, lambda ce: (WEIGHTS * ce**2).sum())


@pytest.mark.parametrize("chunk", [1, 4, 13])
def test_confidence_multiplies_weights_by_a_detached_power_of_the_named_rows_probability(chunk: int) -> None:
    named = torch.arange(N) // 2

    def total(states: Tensor, w: Unembedding) -> Tensor:
        confidence = Confidence(named, power=0.5)
        return weighted_linear_cross_entropy(states, ROWS, TARGETS, WEIGHTS, w, confidence, chunk).total

    agree("bias_and_cap", total, lambda ce: (WEIGHTS * (-0.5 * ce.detach()[named]).exp() * ce).sum())


def test_per_token_values_are_unweighted_and_carry_no_gradient() -> None:
    found = weighted_linear_cross_entropy(drawn(4, 5, D), ROWS, TARGETS, WEIGHTS, unembedding())
    torch.testing.assert_close(found.ce, plain(drawn(4, 5, D), unembedding()).detach())
    assert torch.equal(found.confidence, torch.ones_like(found.confidence))
    assert not found.ce.requires_grad
    assert not found.confidence.requires_grad


def test_a_frozen_unembedding_gets_no_gradient_and_the_states_do() -> None:
    states, frozen = drawn(4, 5, D), Unembedding(drawn(V, D).detach())
    weighted_linear_cross_entropy(states, ROWS, TARGETS, WEIGHTS, frozen).total.backward()
    assert frozen.weight.grad is None
    assert states.grad is not None
    assert states.grad.abs().sum() > 0


def test_without_gradient_the_sum_is_the_same() -> None:
    states, w = drawn(4, 5, D), unembedding()
    with torch.no_grad():
        alone = weighted_linear_cross_entropy(states, ROWS, TARGETS, WEIGHTS, w).total
    torch.testing.assert_close(alone, weighted_linear_cross_entropy(states, ROWS, TARGETS, WEIGHTS, w).total.detach())


def test_no_targets_give_zero_and_no_nan() -> None:
    states, w, none = drawn(4, 5, D), unembedding(), torch.empty(0, dtype=torch.int64)
    found = weighted_linear_cross_entropy(states, none, none, torch.empty(0), w)
    found.total.backward()
    assert found.total.item() == 0
    assert len(found.ce) == 0
    assert torch.equal(w.weight.grad, torch.zeros_like(w.weight))
    assert torch.equal(states.grad, torch.zeros_like(states))
    assert len(greedy_tokens(states, none, w)) == 0


def test_the_cross_entropy_is_fp32_under_bf16_autocast() -> None:
    states, w = drawn(4, 5, D).detach().float().requires_grad_(), Unembedding(drawn(V, D).detach().float())
    with torch.autocast("cpu", torch.bfloat16):
        found = weighted_linear_cross_entropy(states, ROWS, TARGETS, WEIGHTS.float(), w)
        logits = F.linear(states.reshape(-1, D)[ROWS], w.weight)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(found.ce, F.cross_entropy(logits.float(), TARGETS, reduction="none").detach())
    assert found.total.dtype == torch.float32


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [1, 2, 100])
def test_blocks_of_a_chunk_change_nothing(form: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def passed() -> list[Tensor]:
        in_fp64 = unembedding(form)
        states, weight, bias = (
            None if x is None else x.detach().float().requires_grad_()
            for x in (drawn(4, 5, D), in_fp64.weight, in_fp64.bias)
        )
        w = Unembedding(weight, bias, in_fp64.cap)
        with torch.autocast("cpu", torch.bfloat16):
            found = weighted_linear_cross_entropy(states, ROWS, TARGETS, WEIGHTS.float(), w, chunk=5)
        return [
            found.total,
            found.ce,
            *torch.autograd.grad(found.total, trained(states, w)),
            greedy_tokens(states, ROWS, w, 5),
        ]

    whole = passed()
    monkeypatch.setattr(linear_ce, "CPU_BLOCK_BYTES", 4 * V * block)
    for found, expected in zip(passed(), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_backward_of_cross_entropies_runs_in_the_precision_of_forward() -> None:
    states, w = drawn(4, 5, D).detach().float().requires_grad_(), Unembedding(drawn(V, D).detach().float())
    with torch.autocast("cpu", torch.bfloat16):
        ce = linear_cross_entropy(states, ROWS, TARGETS, w)
        weighted = weighted_linear_cross_entropy(states, ROWS, TARGETS, torch.ones(N), w).total
    grads = [torch.autograd.grad(x, states)[0] for x in (ce.sum(), weighted)]
    assert torch.equal(*grads)


def test_greedy_tokens_are_the_likeliest() -> None:
    states, w = drawn(4, 5, D), unembedding("bias_and_cap")
    expected = F.linear(states.reshape(-1, D)[ROWS], w.weight, w.bias).argmax(-1)
    assert torch.equal(greedy_tokens(states, ROWS, w, chunk=4), expected)


def test_chunks_keep_to_a_fixed_memory_within_bounds() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chunk_size(32_000, gpu, torch.bfloat16) == 2097
    assert chunk_size(128_256, gpu, torch.bfloat16) == 523
    assert chunk_size(700, gpu, torch.bfloat16) == 4096
    assert chunk_size(10**7, cpu, torch.float32) == 64
    assert chunk_size(32_000, cpu, torch.bfloat16) == 2097
    assert chunk_size(32_000, cpu, torch.float32) == 262
