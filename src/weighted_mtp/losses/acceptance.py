"""How often an extra head's draft would be accepted: what self-speculative decoding can gain from it.

Shapes: H heads, B batch, T time, D hidden.
"""

import torch
from torch import Tensor

from weighted_mtp.losses.linear_ce import CHUNK
from weighted_mtp.models.mtp import MTPForCausalLM


@torch.no_grad()
def acceptance(model: MTPForCausalLM, states: Tensor, response_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each of heads 2 … H: how many of its greedy tokens head 1 agrees with, and how many it proposes.

    states         (H, B, T, D), as `head_states` gives them
    response_mask  (B, T) bool

    Head k at t proposes x_{t+k}. It is accepted if head 1 at t + k − 1, having read the true prefix, says the same
    (Stern et al. 2018, arXiv 1811.03115, §3, for one head at a time). Counted over response targets that head k has,
    one chunk of one head's logits at a time.

    Departure: the blocks of Stern et al. end at the first refusal and head 1 then reads what was accepted; here every
    prefix is the data's.
    """
    first, *drafts = (_greedy(model, head, response_mask, k) for k, head in enumerate(states, start=1))
    counts = []
    for k, draft in enumerate(drafts, start=2):
        chosen = response_mask[:, k:]
        counts.append(((draft == first)[:, k:][chosen].sum(), chosen.sum()))
    return counts


def _greedy(model: MTPForCausalLM, states: Tensor, response_mask: Tensor, k: int) -> Tensor:
    """States (B, T, D), which predict k tokens ahead → (B, T) the likeliest token, at the place it is proposed for."""
    chosen = response_mask[:, k:]
    tokens = torch.full(response_mask.shape, -1, device=states.device)
    tokens[:, k:][chosen] = torch.cat([model.unembed(h).argmax(-1) for h in states[:, :-k][chosen].split(CHUNK)])
    return tokens
