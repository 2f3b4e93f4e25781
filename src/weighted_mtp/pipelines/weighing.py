"""Token weights of a critic for anybody's own training loop: tensors in, tensors out.

from weighted_mtp import token_weights
found = token_weights("storage/runs/critic", input_ids, attention_mask, response_mask)
loss = (found.weights * cross_entropy)[response_mask].mean()
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.errors import UserError
from weighted_mtp.pipelines import critic as trained
from weighted_mtp.pipelines.critic import Critic
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import pick_device
from weighted_mtp.value_weighting.base import ObjectiveState
from weighted_mtp.value_weighting.td import TDConfig, TDWeighting


class TokenWeights(NamedTuple):
    """weights  (B, T) float, of the token at each place; 1 outside the response
    delta    (B, T) float, the critic's TD error: what the token changed; 0 outside the response
    state    running moments, to be handed to the next call
    """

    weights: Tensor
    delta: Tensor
    state: ObjectiveState


def token_weights(
    critic: str | Path | Critic,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    *,
    options: TDConfig | None = None,
    state: ObjectiveState | None = None,
) -> TokenWeights:
    """w = clip(exp(Â / β)) of a trained critic for a batch, as `run_verifiable` weights it (`value_weighting.td`).

    critic          a critic's run, which is loaded once; or what `load_critic` gave
    input_ids       (B, T) int, tokens of the critic's own vocabulary; prompts as in the critic's `data.template`
    attention_mask  (B, T) true on tokens; padded on the right
    response_mask   (B, T) true on the tokens that are learned, one run of columns a row
    options         β, λ, clipping …; the weighting's defaults if None
    state           of the call before; None starts with this batch's own mean and spread

    Raises UserError for masks of another shape, padding on the left, a response with holes, and for what `load_critic`
    refuses.
    """
    batch = _batch(input_ids, attention_mask.bool(), response_mask.bool())
    loaded = critic if isinstance(critic, Critic) else _loaded(str(critic))
    weighting = TDWeighting(options or TDConfig(), loaded.values, loaded.output_kind)
    there = batch.to(pick_device(RuntimeConfig()))
    (weights,), state = weighting([there], weighting.initial_state() if state is None else state)
    delta = weighting.td_errors(there)
    return TokenWeights(weights.to(input_ids.device), delta.to(input_ids.device), state)


def load_critic(run: str | Path) -> Critic:
    """The critic of a run, frozen, in the precision in which it was trained. Raises UserError if `run` is none."""
    return trained.critic_of_run(Path(run), trained.critic_config(Path(run)).runtime)


@lru_cache(maxsize=1)
def _loaded(run: str) -> Critic:
    return load_critic(run)


def _batch(input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Batch:
    if input_ids.ndim != 2 or {attention_mask.shape, response_mask.shape} != {input_ids.shape}:
        shapes = ", ".join(str(tuple(t.shape)) for t in (input_ids, attention_mask, response_mask))
        raise UserError(f"input_ids, attention_mask and response_mask must all be (B, T), not {shapes}")
    if (attention_mask[:, 1:] & ~attention_mask[:, :-1]).any():
        raise UserError("attention_mask: padded on the left; pad on the right (tokenizer.padding_side = 'right')")
    if (response_mask & ~attention_mask).any():
        raise UserError("response_mask is true on padding: it must be within attention_mask")
    begins = response_mask[:, 1:] & ~response_mask[:, :-1]
    if (begins.sum(1) + response_mask[:, 0] > 1).any():
        raise UserError("response_mask: a row has several responses; give each turn a row of its own")
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        response_mask=response_mask,
        sample_ids=torch.arange(len(input_ids), device=input_ids.device),
        marks=torch.zeros_like(input_ids, dtype=torch.uint8),
    )
