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
        heads = [
            top_tokens([score[..., head] for score in scores], batches, head + 1, self.config.k_percent)
            for head in range(scores[0].shape[-1])
        ]
        return [torch.stack(of_batch, dim=-1).float().squeeze(-1) for of_batch in zip(*heads, strict=True)], state

    @torch.no_grad()
    def scores(self, batch: Batch) -> Tensor:
        """What tokens are ranked by, (B, T, H) fp32; (B, T, 1) if one selection serves all heads."""
        reference = self.reference_ce(batch).float().unsqueeze(-1)
        if self.config.mode == "difficult":
            return reference
        policy = self.policy_ce(batch).float()
        excess = (policy[..., :1] if self.config.selection == "first_head" else policy) - reference
        return excess.abs() if self.config.mode == "absolute" else excess


def top_tokens(scores: Sequence[Tensor], batches: Sequence[Batch], k: int, k_percent: float) -> list[Tensor]:
    """The `k_percent` highest scores of all microbatches of all ranks together, (B, T) bool each.

    scores     (B, T) float, one per batch
    batches    whose targets of head k are the candidates
    k_percent  of the N candidates, round(N · k_percent / 100) are chosen, but at least one if there is any
    """
    places = [batch.targets(k) for batch in batches]
    own = torch.cat([score.flatten().index_select(0, at) for score, at in zip(scores, places, strict=True)])
    everyones = all_gather(own)
    flat = torch.cat(everyones)
    owners = torch.cat(all_gather(torch.cat([_owners(batch, at) for batch, at in zip(batches, places, strict=True)])))
    order = torch.argsort(owners, stable=True)
    order = order[torch.argsort(flat[order], descending=True, stable=True)]
    n_chosen = max(1, round(len(flat) * k_percent / 100))
    chosen = torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, order[:n_chosen], True)
    mine = chosen.split([len(part) for part in everyones])[rank()].split([len(at) for at in places])
    return [
        torch.zeros(score.numel(), dtype=torch.bool, device=score.device).index_copy_(0, at, part).view_as(score)
        for score, at, part in zip(scores, places, mine, strict=True)
    ]


def _owners(batch: Batch, places: Tensor) -> Tensor:
    """The sample ids of tokens at `places` of a flattened (B, T)."""
    return batch.sample_ids.index_select(0, places // batch.input_ids.shape[1])
