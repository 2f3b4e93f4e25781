"""Cross-entropy of every response token: what Rho-1 compares, and what the implicit critic is trained and read by.

Shapes: B batch, T time, H heads, D hidden. Everything is indexed by the target token and 0 if there is none; no
more than one chunk's logits exist at a time, with gradient or without.
"""

import torch
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.losses.linear_ce import linear_cross_entropy
from weighted_mtp.models.mtp import MTPForCausalLM, Unembedding


def head_cross_entropies(model: MTPForCausalLM, batch: Batch) -> Tensor:
    """CE of each head, (B, T, H) fp32: entry (b, s, k − 1) is −log P(head k at s − k says x_s)."""
    states = model.head_states(batch.input_ids)
    return torch.stack([_by_target(model, head, batch, k) for k, head in enumerate(states, start=1)], dim=-1)


def next_token_cross_entropies(model: MTPForCausalLM, batch: Batch) -> Tensor:
    """CE of head 1 only, (B, T) fp32: entry (b, s) is −log P(x_s | x_{<s}).

    The other heads are not run, so a reference of any number of heads costs what its base model does. A plain causal
    LM becomes a policy of one head by `MTPForCausalLM.from_base(model, 1)`.
    """
    return _by_target(model, model.next_token_states(batch.input_ids), batch, 1)


def program_log_probs(model: MTPForCausalLM, batch: Batch, temperature: float = 1.0) -> Tensor:
    """(B,) fp32, log-probability that head 1, sampled at `temperature`, writes each row's whole response."""
    states = model.next_token_states(batch.input_ids)
    at, ids = batch.targets(1), batch.input_ids.flatten()
    ce = linear_cross_entropy(
        states, at - 1, ids.index_select(0, at), _at_temperature(model.unembedding(), temperature)
    )
    return -ce.new_zeros(ids.shape).index_copy(0, at, ce).view_as(batch.input_ids).sum(1)


def _at_temperature(unembedding: Unembedding, temperature: float) -> Unembedding:
    """The unembedding that gives logits / temperature: cap · tanh(x / cap) / τ is (cap/τ) · tanh((x/τ) / (cap/τ))."""
    if temperature == 1:
        return unembedding
    weight, bias, cap = unembedding.weight, unembedding.bias, unembedding.cap
    return Unembedding(
        weight / temperature,
        None if bias is None else bias / temperature,
        None if cap is None else cap / temperature,
    )


def _by_target(model: MTPForCausalLM, states: Tensor, batch: Batch, k: int) -> Tensor:
    """States (B, T, D), which predict k tokens ahead → (B, T)."""
    at, ids = batch.targets(k), batch.input_ids.flatten()
    ce = linear_cross_entropy(states, at - k, ids.index_select(0, at), model.unembedding())
    return ce.new_zeros(ids.shape).index_copy(0, at, ce).view_as(batch.input_ids)
