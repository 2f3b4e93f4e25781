"""Weighted linear cross-entropy in one pass: unembedding, softmax and gradient, a chunk of tokens at a time.

Shapes: N tokens, D hidden, V vocabulary.

Per-token weights are known before the forward pass, so the gradient of every chunk can be taken while its logits
exist, and no more than one chunk's logits are ever alive, neither in forward nor in backward. (The usual ways keep
all N x V logits until backward, or compute them twice.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 1024  # tokens whose logits exist at once: 1024 x 49152 in fp32 is 192 MiB


def weighted_linear_cross_entropy(
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor,
    unembed: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """`Σ_n weights_n · CE(unembed(hidden_n), targets_n)`, and the unweighted CE of every token.

    hidden      (N, D), any float dtype; the CE is computed in fp32 whatever it is
    targets     (N,) int64
    weights     (N,) float; no gradient flows into them
    unembed     maps (n, D) to logits (n, V); any module (bias, soft-capping), applied a chunk at a time
    parameters  those of `unembed` that are to receive gradients

    Returns a scalar sum that is differentiable with respect to `hidden` and `parameters`, and (N,) fp32 cross-
    entropies without gradient. An empty N gives zero and no gradient, never NaN.
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or any(p.requires_grad for p in parameters)):
        trained = [p for p in parameters if p.requires_grad]
        return _OnePass.apply(hidden, targets, weights, unembed, chunk, *trained)
    ce = linear_cross_entropy(hidden, targets, unembed, chunk)
    return (weights.float() * ce).sum(), ce


def linear_cross_entropy(
    hidden: Tensor, targets: Tensor, unembed: Callable[[Tensor], Tensor], chunk: int = CHUNK
) -> Tensor:
    """Every token's CE, (N,) fp32, for losses that are no weighted sum of them; arguments as above.

    Differentiable with respect to `hidden` and whatever `unembed` holds: backward computes each chunk's logits again.
    """
    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(_chunk_cross_entropy, h, t, unembed, use_reentrant=False) for h, t in parts])


def _chunk_cross_entropy(hidden: Tensor, targets: Tensor, unembed: Callable[[Tensor], Tensor]) -> Tensor:
    return _cross_entropy(unembed(hidden), targets)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        weights: Tensor,
        unembed: Callable[[Tensor], Tensor],
        chunk: int,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), device=hidden.device)
        ce = torch.empty(len(hidden), device=hidden.device)
        hidden_grad = torch.empty_like(hidden)
        parameter_grads = [torch.zeros_like(p) for p in parameters]
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            with torch.enable_grad():
                h = hidden[rows].detach().requires_grad_()
                part_ce = _cross_entropy(unembed(h), targets[rows])
                part = (weights[rows].float() * part_ce).sum()
                grads = torch.autograd.grad(part, [h, *parameters])
            hidden_grad[rows] = grads[0]
            for kept, grad in zip(parameter_grads, grads[1:], strict=True):
                kept += grad
            total += part.detach()
            ce[rows] = part_ce.detach()
        ctx.save_for_backward(hidden_grad, *parameter_grads)
        ctx.mark_non_differentiable(ce)
        return total, ce

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _grad_ce: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, *parameter_grads = ctx.saved_tensors
        scaled = [grad_total.to(g.dtype) * g for g in (hidden_grad, *parameter_grads)]
        return scaled[0], None, None, None, None, *scaled[1:]
