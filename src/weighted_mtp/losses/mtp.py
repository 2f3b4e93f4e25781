"""The policy's loss: every head's weighted cross-entropy, as sums and counts.

Shapes: B batch, T time, H heads, D hidden, V vocabulary.

    L = Σ_{t,k} c_k · w_{t+k} · CE(head_k(t), x_{t+k}) · m_{t+k} / N      (multi-token prediction: arXiv 2404.19737, §2)

This file returns the numerator and N apart. The one division is made by the training loop, over all microbatches
and ranks of an optimizer step, so that splitting a batch changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from weighted_mtp.config import Section
from weighted_mtp.errors import UserError
from weighted_mtp.losses.linear_ce import weighted_linear_cross_entropy
from weighted_mtp.models.mtp import MTPForCausalLM


class LossConfig(Section):
    """How token weights enter the loss."""

    normalization: Literal["weights", "tokens"] = "weights"
    """`weights`: N = Σ c·w·m, so a weighting cannot act as a hidden learning-rate change. `tokens`: N = Σ c·m."""
    alignment: Literal["target", "source"] = "target"
    """Whose weight scales head k at t: the token it predicts (`target`, x_{t+k}) or the one it stands on (`source`)."""
    head_coefficients: tuple[float, ...] | None = None
    """c_k, one a head; all 1 where not given."""
    detach_extra_heads: bool = False
    """Heads 2 … H learn, but send no gradient through the trunk's layers; the final norm and the unembedding, which all
    heads share, go on learning from all."""

    @model_validator(mode="after")
    def _some_head_counts(self) -> "LossConfig":
        given = self.head_coefficients
        if given is not None and (any(c < 0 for c in given) or not any(given)):
            raise ValueError(f"head_coefficients={given} must be 0 or more, and not all 0")
        return self


@dataclass(frozen=True)
class MTPSums:
    """Sums over the (t, k) pairs of one batch; none is divided by anything.

    loss            scalar with gradient: Σ c_k w CE m
    count           scalar: N
    ce              (H,) Σ CE m, unweighted
    weighted_ce     (H,) Σ w CE m
    weight          (H,) Σ w m
    tokens          (H,) Σ m; head k has fewer than head 1 only where a response starts at the very first token
    """

    loss: Tensor
    count: Tensor
    ce: Tensor
    weighted_ce: Tensor
    weight: Tensor
    tokens: Tensor


def mtp_loss(
    model: MTPForCausalLM,
    states: Tensor,
    input_ids: Tensor,
    response_mask: Tensor,
    weights: Tensor,
    config: LossConfig,
) -> MTPSums:
    """The numerator of the loss, its N, and per-head sums.

    states (H, B, T, D), the model's `head_states` under `config.detach_extra_heads`; input_ids (B, T) int64;
    response_mask (B, T) bool, right-padded; weights (B, T) or (B, T, H), where weights[b, s] (and weights[b, s, k-1]
    for head k) belongs to token x_s: as the token predicted under `alignment: target`, as the token predicted *from*
    under `source`.

    Only response targets are ever unembedded, and of one head at a time.
    Raises `UserError` when `head_coefficients` does not have H entries.
    """
    n_heads = len(states)
    coefficients = _coefficients(config, n_heads)
    if weights.dim() == 2:
        weights = weights.unsqueeze(-1).expand(-1, -1, n_heads)
    parameters = list(model.get_output_embeddings().parameters())
    per_head = []
    loss, count = states.new_zeros((), dtype=torch.float32), states.new_zeros((), dtype=torch.float32)
    for k, (head, c) in enumerate(zip(states, coefficients, strict=True), start=1):
        chosen = response_mask[:, k:]  # m_{t+k}
        w = (weights[:, k:, k - 1] if config.alignment == "target" else weights[:, :-k, k - 1])[chosen].float()
        total, ce = weighted_linear_cross_entropy(
            head[:, :-k][chosen], input_ids[:, k:][chosen], w, model.unembed, parameters
        )
        loss = loss + c * total
        count = count + c * (w.sum() if config.normalization == "weights" else chosen.sum())
        per_head.append(torch.stack([ce.sum(), (w * ce).sum(), w.sum(), chosen.sum().float()]))
    ce, weighted_ce, weight, tokens = torch.stack(per_head, dim=1).detach()
    return MTPSums(loss, count, ce, weighted_ce, weight, tokens)


def _coefficients(config: LossConfig, n_heads: int) -> Sequence[float]:
    given = config.head_coefficients
    if given is None:
        return [1.0] * n_heads
    check_one_a_head("loss.head_coefficients", given, n_heads)
    return given


def check_one_a_head(option: str, given: Sequence[float], n_heads: int) -> None:
    """Refuse another number of values than the policy has heads."""
    if len(given) != n_heads:
        raise UserError(f"{option} has {len(given)} entries, but the policy has {n_heads} heads: give {n_heads}")
