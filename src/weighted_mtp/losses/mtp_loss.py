"""The policy's loss: every head's weighted cross-entropy, as sums and counts.

Shapes: B batch, T time, H heads, D hidden size, V vocabulary; N targets of all heads together.

    L = Σ_{t,k} c_k · w_{t+k} · CE(head_k(t), x_{t+k}) · m_{t+k} / N      (multi-token prediction: arXiv 2404.19737, §2)

This file returns the numerator and the denominator apart. The one division is made by the training loop, over all
microbatches and ranks of an optimizer step, so that splitting a batch changes nothing.

With `confidence` the weight of a target is multiplied by the policy's own probability of it, w_{t+k} · π(x_{t+k})^p,
which no gradient flows through: the gradient of a cross-entropy times its probability is that of the probability
itself, so that tokens of free choice count little (dynamic fine-tuning: arXiv 2508.05629, §3). It takes no further
forward pass, since the loss has the probability when it needs it.

Departures from that paper: heads 2 … H exist, and each may take its own probability of the target (`each_head`) or
head 1's (`first_head`), the only one that has read everything before the target; and the loss is divided by the sum of
the weights, where the paper's is a mean over tokens, so that here confidence is no hidden learning rate either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.errors import UserError
from weighted_mtp.losses.linear_ce import Confidence, weighted_linear_cross_entropy
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.section import Section


class LossConfig(Section):
    """How token weights enter the loss."""

    normalization: Literal["weights", "tokens"] = "weights"
    """`weights`: N = Σ c·w·m, so a weighting cannot act as a hidden learning-rate change. `tokens`: N = Σ c·m."""
    alignment: Literal["target", "source"] = "target"
    """Whose weight scales head k at t: the token it predicts (`target`, x_{t+k}) or the one it stands on (`source`)."""
    confidence: Literal["each_head", "first_head"] | None = None
    """Multiply every target's weight by the policy's own probability of it: the predicting head's, or head 1's for all
    heads; null for not at all. Of a baseline it is the weighting `confidence`, of the others a factor."""
    confidence_power: float = Field(1.0, gt=0)
    """Exponent of that probability."""
    head_coefficients: tuple[float, ...] | None = None
    """c_k, one per head; all 1 if not given."""
    detach_extra_heads: bool = False
    """Heads 2 … H learn, but send no gradient through the trunk's layers; the final norm and the unembedding, which all
    heads share, still learn from all."""

    @model_validator(mode="after")
    def _some_head_counts(self) -> "LossConfig":
        given = self.head_coefficients
        if given is not None and (any(c < 0 for c in given) or not any(given)):
            raise ValueError(f"head_coefficients={given} must be 0 or more, and not all 0")
        return self

    @model_validator(mode="after")
    def _power_has_an_effect(self) -> "LossConfig":
        if self.confidence is None and self.confidence_power != 1:
            raise ValueError(
                f"confidence_power={self.confidence_power} has no effect without confidence: set it to each_head or "
                "first_head"
            )
        return self


@dataclass(frozen=True)
class MTPSums:
    """Sums over the (t, k) pairs of one batch; none is divided by anything.

    loss         scalar with gradient: Σ c_k w CE m
    count        scalar: N
    ce           (H,) Σ CE m, unweighted
    weighted_ce  (H,) Σ w CE m
    weight       (H,) Σ w m
    square       (H,) Σ w² m
    marked       (H,) Σ w m over marked targets
    tokens       (H,) Σ m; head k has fewer than head 1 only where a response starts at the very first token
    marks        (H,) Σ m over marked targets
    """

    loss: Tensor
    count: Tensor
    ce: Tensor
    weighted_ce: Tensor
    weight: Tensor
    square: Tensor
    marked: Tensor
    tokens: Tensor
    marks: Tensor


def mtp_loss(
    model: MTPForCausalLM, states: Tensor, batch: Batch, weights: Tensor, config: LossConfig, mark: int = 0
) -> MTPSums:
    """The numerator of the loss, its N, and per-head sums.

    states   (H, B, T, D), the model's `head_states` under `config.detach_extra_heads`
    weights  (B, T) or (B, T, H), where weights[b, s] (and weights[b, s, k-1] for head k) belongs to token x_s: as the
             token predicted under `alignment: target`, as the token predicted *from* under `source`
    mark     bits of `data.prompts.MARKS`: which targets `marked` and `marks` count

    Only response targets are ever unembedded. Raises `UserError` when `head_coefficients` does not have H entries.
    """
    n_heads, places = len(states), batch.input_ids.numel()
    at = [batch.targets(k) for k in range(1, n_heads + 1)]
    every = torch.cat(at)
    sizes = [len(part) for part in at]
    given = torch.cat([_weights_of(weights, part, k, config.alignment) for k, part in enumerate(at, start=1)])
    per_head_c = coefficients(config, n_heads)
    c = torch.cat([given.new_full((size,), value) for value, size in zip(per_head_c, sizes, strict=True)])
    found = weighted_linear_cross_entropy(
        states,
        torch.cat([(k - 1) * places + part - k for k, part in enumerate(at, start=1)]),
        batch.input_ids.flatten().index_select(0, every),
        c * given,
        model.unembedding(),
        _confidence(config, at),
    )
    w = given * found.confidence
    marked = (batch.marks.flatten().index_select(0, every) & mark > 0).float()
    rows = torch.stack([found.ce, w * found.ce, w, w * w, w * marked, torch.ones_like(w), marked])
    per_head = torch.stack([part.sum(1) for part in rows.split(sizes, dim=1)], dim=1)
    count = (c * w).sum() if config.normalization == "weights" else c.sum()
    return MTPSums(found.total, count, *per_head.unbind())


def _weights_of(weights: Tensor, at: Tensor, k: int, alignment: str) -> Tensor:
    """(N_k,) fp32, for head k's targets at places `at` of a flattened (B, T)."""
    of_head = weights if weights.dim() == 2 else weights[..., k - 1]
    return of_head.flatten().index_select(0, at if alignment == "target" else at - k).float()


def _confidence(config: LossConfig, at: Sequence[Tensor]) -> Confidence | None:
    """Whose probability scales each target: its own row's, or that of head 1's row for the same token."""
    if config.confidence is None:
        return None
    if config.confidence == "each_head":
        rows = torch.arange(sum(map(len, at)), device=at[0].device)
    else:
        rows = torch.cat([torch.searchsorted(at[0], part) for part in at])  # head 1's rows come first, in order
    return Confidence(rows, config.confidence_power)


def coefficients(config: LossConfig, n_heads: int) -> Sequence[float]:
    """c_k of each head. Raises `UserError` when `head_coefficients` does not have H entries."""
    given = config.head_coefficients
    if given is None:
        return [1.0] * n_heads
    check_one_per_head("loss.head_coefficients", given, n_heads)
    return given


def check_one_per_head(option: str, given: Sequence[float], n_heads: int) -> None:
    """Refuse another number of values than the policy has heads."""
    if len(given) != n_heads:
        raise UserError(f"{option} has {len(given)} entries, but the policy has {n_heads} heads: give {n_heads}")
