"""Linear cross-entropy: unembedding, softmax and gradient in one pass over chunks of tokens.

Shapes: N target tokens, D hidden size, V vocabulary.

Rows are picked out of the states by index, so one call serves all heads: the unembedding is cast to the precision of
the products once, its gradient has one buffer, and the gradient of the states another. No more than one chunk's logits
are ever alive, neither in forward nor in backward. A weighted sum also takes its gradients in the forward pass: per-
token weights are known before it or follow from the token's own cross-entropy, so every chunk can be finished while its
logits exist. (The usual ways keep all N × V logits until backward, or compute them twice.)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weighted_mtp.models.mtp import Unembedding

LOGITS_BYTES, CPU_FP32_LOGITS_BYTES = 256 << 20, 32 << 20
"""Memory of one chunk's fp32 logits. In fp32 more than the lower saves little on a CPU, whose caches are smaller;
in bf16 it does: a CPU adds each chunk's product to the unembedding's whole fp32 gradient in a pass of its own."""
MIN_CHUNK, MAX_CHUNK = 64, 4096
CPU_BLOCK_BYTES = 4 << 20
"""What a CPU's caches hold of a chunk while several operations pass over it."""


@dataclass(frozen=True)
class Confidence:
    """Multiply a token's weight by a power of the probability that some row gives to its target.

    rows   (N,) int64: for each target, which of the N supplies the probability; none may come after the target's own
    power  exponent of the probability
    """

    rows: Tensor
    power: float = 1.0


@dataclass(frozen=True)
class WeightedSum:
    """
    total       scalar Σ_n w_n f_n CE_n, differentiable
    ce          (N,) fp32 cross-entropies, without gradient
    confidence  (N,) fp32 f_n, 1 if none was asked for
    """

    total: Tensor
    ce: Tensor
    confidence: Tensor


def chunk_size(vocabulary: int, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens whose logits exist at once, if their products are in `dtype`."""
    wide_on_cpu = device.type == "cpu" and dtype.itemsize >= 4
    budget = CPU_FP32_LOGITS_BYTES if wide_on_cpu else LOGITS_BYTES
    return min(MAX_CHUNK, max(MIN_CHUNK, budget // (4 * vocabulary)))


def _chunk_for(states: Tensor, unembedding: Unembedding) -> int:
    return chunk_size(len(unembedding.weight), states.device, _dtype_of_products(states))


def _dtype_of_products(states: Tensor) -> torch.dtype:
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


def weighted_linear_cross_entropy(
    states: Tensor,
    rows: Tensor,
    targets: Tensor,
    weights: Tensor,
    unembedding: Unembedding,
    confidence: Confidence | None = None,
    chunk: int | None = None,
) -> WeightedSum:
    """`Σ_n w_n · f_n · CE(logits(states[rows_n]), targets_n)` with gradients taken in the forward pass.

    states      (…, D), any float dtype; the cross-entropy is computed in fp32 whatever it is
    rows        (N,) int64, distinct rows of `states` flattened to (-1, D)
    targets     (N,) int64
    weights     (N,) float; no gradient flows into them, nor into the confidences f_n
    confidence  see `Confidence`; all f_n are 1 without it
    chunk       tokens whose logits exist at once; by default what fits a fixed amount of memory

    An empty N gives zero and zero gradients, never NaN.
    """
    chunk = chunk or _chunk_for(states, unembedding)
    if torch.is_grad_enabled() and (states.requires_grad or unembedding.is_trained):
        weight, bias = unembedding.weight, unembedding.bias
        arguments = (rows, targets, weights, unembedding.cap, confidence, chunk)
        return WeightedSum(*_WeightedSum.apply(states, weight, bias, *arguments))
    return WeightedSum(*_one_pass(states, rows, targets, weights, unembedding, confidence, chunk, None))


def linear_cross_entropy(
    states: Tensor, rows: Tensor, targets: Tensor, unembedding: Unembedding, chunk: int | None = None
) -> Tensor:
    """Every target's cross-entropy, (N,) fp32, for losses that are no weighted sum of them; arguments as above.

    Differentiable: backward computes each chunk's logits again, now knowing the weight of every token.
    """
    chunk = chunk or _chunk_for(states, unembedding)
    arguments = (rows, targets, unembedding.cap, chunk)
    return _CrossEntropies.apply(states, unembedding.weight, unembedding.bias, *arguments)


def greedy_tokens(states: Tensor, rows: Tensor, unembedding: Unembedding, chunk: int | None = None) -> Tensor:
    """The likeliest token of each row, (N,) int64; arguments as above."""
    chunk = chunk or _chunk_for(states, unembedding)
    product = _Product(states, unembedding, min(chunk, len(rows)))
    found = [rows.new_empty(0)]
    for part in rows.split(chunk):
        found += [product.logits(block).argmax(-1) for block in product.take(_picked(states, part, product))]
    return torch.cat(found)


@dataclass
class _Gradients:
    """Buffers that the chunks add to: of the states (rows, D), and fp32 ones of what of the unembedding is trained."""

    states: Tensor
    weight: Tensor | None
    bias: Tensor | None

    @staticmethod
    def zero(states: Tensor, unembedding: Unembedding) -> "_Gradients":
        weight, bias = unembedding.weight, unembedding.bias
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return _Gradients(
            torch.zeros_like(states).reshape(-1, states.shape[-1]),
            torch.zeros_like(weight, dtype=dtype) if weight.requires_grad else None,
            torch.zeros_like(bias, dtype=dtype) if bias is not None and bias.requires_grad else None,
        )

    def take_block(self, block: slice, by_logits: Tensor, product: "_Product") -> None:
        """by_logits (b, V) fp32: the derivatives by the logits of a block's rows, written over them."""
        product.narrowed(block)
        if self.bias is not None:
            self.bias.add_(by_logits.sum(0))

    def take_chunk(self, rows: Tensor, hidden: Tensor, product: "_Product") -> None:
        """hidden (n, D): a chunk of which all blocks are taken."""
        by_logits = product.narrow[: len(hidden)]
        # Rows are distinct, so a copy will do: no sorting, no atomics.
        self.states.index_copy_(0, rows, (by_logits @ product.weight).to(self.states.dtype))
        if self.weight is not None:
            _add_product(self.weight, by_logits.t(), hidden)


class _Product:
    """The unembedding in the precision of its products, cast once, and what it makes of a chunk of rows.

    weight   (V, D)
    narrow   (n, V) in that precision: on a CPU the products, and at last the derivatives by the logits
    wide     (n, V) in fp32 at least: the logits; the same memory if the products are, too

    All chunks share this memory. A CPU maps new memory page by page, which takes as long as the products themselves.
    """

    def __init__(self, states: Tensor, unembedding: Unembedding, rows: int) -> None:
        self.weight = unembedding.weight.detach().to(_dtype_of_products(states))
        self.bias = None if unembedding.bias is None else unembedding.bias.detach()
        self.cap = unembedding.cap
        self.narrow = self.weight.new_empty(rows, len(self.weight))
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        self.wide = self.narrow if self.weight.dtype == wide else torch.empty_like(self.narrow, dtype=wide)
        self._products = self.wide if states.is_cuda else self.narrow  # a GPU returns the fp32 in which it adds up bf16

    def take(self, hidden: Tensor) -> list[slice]:
        """Multiply hidden (n, D); returns the blocks of its rows in which to ask for their logits."""
        n = len(hidden)
        products = self._products[:n]
        if products.dtype == hidden.dtype:
            torch.mm(hidden, self.weight.t(), out=products)
        else:
            torch.mm(hidden, self.weight.t(), out_dtype=products.dtype, out=products)
        size = _rows_in_cache(len(self.weight)) if hidden.device.type == "cpu" else n
        return [slice(first, min(n, first + size)) for first in range(0, n, size)]

    def logits(self, block: slice) -> Tensor:
        """Those of a block's rows, (b, V) in fp32, once; they may be overwritten."""
        z = self.wide[block]
        if self._products is not self.wide:
            z.copy_(self.narrow[block])
        if self.bias is not None:
            z.add_(self.bias)
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def narrowed(self, block: slice) -> None:
        """Copy into `narrow` what a block's logits were overwritten with."""
        if self.wide is not self.narrow:
            self.narrow[block].copy_(self.wide[block])


def _one_pass(
    states: Tensor,
    rows: Tensor,
    targets: Tensor,
    weights: Tensor,
    unembedding: Unembedding,
    confidence: Confidence | None,
    chunk: int,
    gradients: _Gradients | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Total, cross-entropies and confidences. The total's gradients are added to `gradients`, if they are wanted."""
    product = _Product(states, unembedding, min(chunk, len(rows)))
    ce = torch.empty(len(rows), device=states.device, dtype=product.wide.dtype)
    factor = torch.ones_like(ce)
    with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
        for start in range(0, len(rows), chunk):
            chosen = rows[start : start + chunk]
            hidden = _picked(states, chosen, product)
            for block in product.take(hidden):
                part = slice(start + block.start, start + block.stop)
                z, target = product.logits(block), targets[part, None]
                slope = None if product.cap is None else 1 - (z / product.cap) ** 2
                largest, at_target = z.amax(1, keepdim=True), z.gather(1, target)
                total = z.sub_(largest).exp_().sum(1, keepdim=True)  # z: probabilities, up to the total
                ce[part] = (total.log() + largest - at_target).squeeze(1)
                if confidence is not None:
                    factor[part] = (-confidence.power * ce[confidence.rows[part]]).exp()
                if gradients is not None:
                    scale = (weights[part] * factor[part])[:, None]
                    z.mul_(scale / total).scatter_add_(1, target, -scale)  # w (p − onehot)
                    gradients.take_block(block, z if slope is None else z.mul_(slope), product)
            if gradients is not None:
                gradients.take_chunk(chosen, hidden, product)
    return (weights * factor * ce).sum(), ce, factor


def _rows_in_cache(width: int) -> int:
    """Rows of this many fp32 numbers that fit into `CPU_BLOCK_BYTES`; at least one."""
    return max(1, CPU_BLOCK_BYTES // (4 * width))


def _picked(states: Tensor, rows: Tensor, product: _Product) -> Tensor:
    """Rows of the flattened states, (n, D), in the precision of the product."""
    return states.detach().reshape(-1, states.shape[-1]).index_select(0, rows).to(product.weight.dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, where total may be wider than the factors."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        rows = _rows_in_cache(total.shape[1])
        for part, factor in zip(total.split(rows), a.split(rows), strict=True):
            part.add_(factor @ b)


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor,
        targets: Tensor,
        weights: Tensor,
        cap: float | None,
        confidence: Confidence | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        unembedding = Unembedding(weight, bias, cap)
        gradients = _Gradients.zero(states, unembedding)
        found = _one_pass(states, rows, targets, weights, unembedding, confidence, chunk, gradients)
        ctx.save_for_backward(gradients.states, gradients.weight, gradients.bias)
        ctx.shape = states.shape
        ctx.mark_non_differentiable(*found[1:])
        return found

    @staticmethod
    def backward(ctx: Any, by_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if g is None else g.mul_(by_total) for g in ctx.saved_tensors]  # in place: it runs once
        assert scaled[0] is not None
        return scaled[0].reshape(ctx.shape), *scaled[1:], *(None,) * 6


class _CrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor,
        targets: Tensor,
        cap: float | None,
        chunk: int,
    ) -> Tensor:
        ctx.save_for_backward(states, weight, bias, rows, targets)
        ctx.cap, ctx.chunk = cap, chunk
        kind = states.device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        none = torch.empty(len(rows), device=states.device)
        return _one_pass(states, rows, targets, none, Unembedding(weight, bias, cap), None, chunk, None)[1]

    @staticmethod
    def backward(ctx: Any, by_ce: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, rows, targets = ctx.saved_tensors
        unembedding = Unembedding(weight, bias, ctx.cap)
        gradients = _Gradients.zero(states, unembedding)
        with torch.autocast(*ctx.autocast):
            _one_pass(states, rows, targets, by_ce, unembedding, None, ctx.chunk, gradients)
        return gradients.states.reshape(states.shape), gradients.weight, gradients.bias, *(None,) * 4
