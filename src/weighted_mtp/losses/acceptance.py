"""How often an extra head's draft would be accepted: what self-speculative decoding can gain from it.

Shapes: H heads, B batch, T time, D hidden.
"""

import torch
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.losses.linear_ce import greedy_tokens
from weighted_mtp.models.mtp import MTPForCausalLM


@torch.no_grad()
def acceptance(model: MTPForCausalLM, states: Tensor, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """For each of heads 2 … H: how many of its greedy tokens head 1 agrees with, and how many it proposes.

    states  (H, B, T, D), as `head_states` gives them

    Head k at t proposes x_{t+k}. It is accepted if head 1 at t + k − 1, having read the true prefix, says the same
    (Stern et al. 2018, arXiv 1811.03115, §3, for one head at a time). Counted over response targets that head k has,
    one chunk of one head's logits at a time.

    Departure: the blocks of Stern et al. end at the first refusal and head 1 then reads what was accepted; here every
    prefix is the data's.
    """
    first, *drafts = (_proposed(model, head, batch, k) for k, head in enumerate(states, start=1))
    counts = []
    for k, draft in enumerate(drafts, start=2):
        at = batch.targets(k)
        agreed = draft.index_select(0, at) == first.index_select(0, at)
        counts.append((agreed.sum(), torch.full((), len(at), device=at.device)))
    return counts


def _proposed(model: MTPForCausalLM, states: Tensor, batch: Batch, k: int) -> Tensor:
    """States (B, T, D), which predict k tokens ahead → (B · T,) the likeliest tokens, at the positions they are
    proposed for."""
    at = batch.targets(k)
    proposed = torch.full((batch.input_ids.numel(),), -1, device=states.device)
    return proposed.index_copy(0, at, greedy_tokens(states, at - k, model.unembedding()))
