"""Rho-1: train on the tokens whose loss can still be reduced (Lin et al. 2024, arXiv 2404.07965, §2.2).

Shapes: B batch, T time, H heads. Everything is indexed by the target token: entry (b, s, k − 1) is about head k
predicting x_s from position s − k.

    excess_{s,k} = CE_policy(head_k, x_s) − CE_ref(x_s | x_{<s})

The top `k_percent` tokens of the step's whole batch count 1, the others 0, for each head apart.

Departures: the paper has one head and ranks a token of head k against the reference's *next-token* loss, as we do for
every k, so that one reference serves all heads; and it selects within a batch, which here is all microbatches
of all ranks.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.runtime.distributed import all_gather, rank
from weighted_mtp.section import Section
from weighted_mtp.value_weighting.base import ObjectiveState

Mode = Literal["signed", "absolute", "difficult"]


class Rho1Config(Section):
    """Which tokens are kept."""

    mode: Mode = "signed"
    """Largest excess loss (`signed`), largest |excess| (`absolute`) or largest loss of the reference (`difficult`)."""
    k_percent: float = Field(60.0, gt=0, le=100)
    """Share of response tokens kept, in percent; 60 to 70 in the paper."""
    selection: Literal["each_head", "first_head"] = "each_head"
    """Every head by its own loss, or all heads what head 1's loss selects: the loss of a far head is mostly what nobody
    could foresee, so its excess over a reference that has read everything ranks tokens by surprise."""

    @model_validator(mode="after")
    def _selection_has_an_effect(self) -> "Rho1Config":
        if self.mode == "difficult" and self.selection == "first_head":
            raise ValueError(
                "selection=first_head has no effect with mode=difficult, which evaluates only the reference"
            )
        return self


class Rho1Weighting:
    """Weights 1 for the selected tokens and 0 for the others: (B, T, H), or (B, T) if one selection serves all heads.

    Nothing is remembered between steps. Ties go to the smaller sample id, then to the earlier token, so that the order
    and the split of microbatches change nothing.
    """

    def __init__(
        self, config: Rho1Config, policy_ce: Callable[[Batch], Tensor], reference_ce: Callable[[Batch], Tensor]
    ) -> None:
        """
        policy_ce     batch → (B, T, H), cross-entropy of each head of the policy as it is; (B, T, 1) is enough for
                      `selection: first_head`, and `difficult` does not call it
        reference_ce  batch → (B, T), cross-entropy of the reference's next-token prediction

        Both see to eval mode and to freeing logits themselves (`losses.token_ce`); what they give outside the response
        is never looked at, nor head k's first k positions, which it cannot predict.
        """
        self.config, self.policy_ce, self.reference_ce = config, policy_ce, reference_ce

    def initial_state(self) -> ObjectiveState:
        return {}

    @torch.no_grad()
    def __call__(self, batches: Sequence[Batch], state: ObjectiveState) -> tuple[list[Tensor], ObjectiveState]:
        scores = [self.scores(batch) for batch in batches]
        targets = [_targets(batch, score.shape[-1]) for batch, score in zip(batches, scores, strict=True)]
        weights = [torch.zeros_like(score) for score in scores]
        for head in range(scores[0].shape[-1]):
            chosen = top_tokens(
                [score[..., head] for score in scores],
                [target[..., head] for target in targets],
                [batch.sample_ids for batch in batches],
                self.config.k_percent,
            )
            for weight, choice in zip(weights, chosen, strict=True):
                weight[..., head] = choice.float()
        return [weight.squeeze(-1) for weight in weights], state

    @torch.no_grad()
    def scores(self, batch: Batch) -> Tensor:
        """What tokens are ranked by, (B, T, H) fp32; (B, T, 1) if one selection serves all heads."""
        reference = self.reference_ce(batch).float().unsqueeze(-1)
        if self.config.mode == "difficult":
            return reference
        policy = self.policy_ce(batch).float()
        excess = (policy[..., :1] if self.config.selection == "first_head" else policy) - reference
        return excess.abs() if self.config.mode == "absolute" else excess


def top_tokens(
    scores: Sequence[Tensor], masks: Sequence[Tensor], sample_ids: Sequence[Tensor], k_percent: float
) -> list[Tensor]:
    """The `k_percent` highest scores of all microbatches of all ranks together, (B, T) bool each.

    scores      (B, T) float each; T differs between microbatches
    masks       (B, T) bool each: which tokens are candidates
    sample_ids  (B,) int64 each
    k_percent   of the N candidates, round(N · k_percent / 100) are chosen, but at least one if there is any
    """
    own = torch.cat([score[mask] for score, mask in zip(scores, masks, strict=True)])
    everyones = all_gather(own)
    flat = torch.cat(everyones)
    owners = torch.cat(
        all_gather(torch.cat([i[:, None].expand_as(m)[m] for i, m in zip(sample_ids, masks, strict=True)]))
    )
    order = torch.argsort(owners, stable=True)
    order = order[torch.argsort(flat[order], descending=True, stable=True)]
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[order[: max(1, round(len(flat) * k_percent / 100))]] = True
    mine = chosen.split([len(part) for part in everyones])[rank()]
    parts = mine.split([int(mask.sum()) for mask in masks])
    return [torch.zeros_like(m).masked_scatter(m, part) for m, part in zip(masks, parts, strict=True)]


def _targets(batch: Batch, n_heads: int) -> Tensor:
    """(B, T, H) True where head k has a target: response tokens from position k on."""
    position = torch.arange(batch.response_mask.shape[1], device=batch.response_mask.device)
    depth = torch.arange(1, n_heads + 1, device=position.device)
    return batch.response_mask.unsqueeze(-1) & (position[:, None] >= depth)
