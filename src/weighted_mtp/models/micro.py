"""Models small enough for a laptop: drawn at random, or cut out of a large one.

Cutting out is weight selection (Xu et al. 2023, arXiv 2311.18823, §3): the first layers, and of every weight evenly
spaced rows and columns. Departure: whole attention heads are kept together, and of a head's channels evenly spaced
rotary pairs, so that each selected pair turns at the frequency that it had in the large model.
"""

import copy
from typing import cast

import torch
from pydantic import Field, model_validator
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.errors import UserError
from weighted_mtp.models.mtp import MTPConfig, MTPForCausalLM
from weighted_mtp.section import Section

_KEY_VALUE = ("k_proj", "v_proj")
_ATTENTION = ("q_proj", *_KEY_VALUE, "o_proj")


class MicroSize(Section):
    """How large a micro model is."""

    hidden_size: int = Field(192, ge=1, le=2**16)
    """Width of the residual stream; a multiple of `num_attention_heads`."""
    intermediate_size: int = Field(512, ge=1, le=2**18)
    """Width of the MLP."""
    num_hidden_layers: int = Field(4, ge=2, le=2**10)
    """Transformer layers."""
    num_attention_heads: int = Field(6, ge=1)
    """Attention heads of a layer."""
    max_position_embeddings: int = Field(512, ge=1)
    """Longest sequence, in tokens."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "MicroSize":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}"
            )
        return self


def random_micro(size: MicroSize, tokenizer: PreTrainedTokenizerBase, n_future_tokens: int | None) -> PreTrainedModel:
    """A Llama of this size with tied embeddings, drawn from torch's generator; a policy, or for None a causal LM."""
    base = LlamaConfig(
        vocab_size=len(tokenizer),
        **size.model_dump(),
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    if n_future_tokens is None:
        return AutoModelForCausalLM.from_config(base)
    return MTPForCausalLM(MTPConfig(base_config=base, n_future_tokens=n_future_tokens))


def micro_from(base: PreTrainedModel, size: MicroSize) -> PreTrainedModel:
    """A small model of the base's own class (a policy of a policy), its weights selected from the base's.

    The vocabulary stays whole, so the base's tokenizer serves. Every prediction head is cut out of the base's own.

    Raises UserError if `size` is larger than the base, or if the base's attention is not made of q_proj,
    k_proj, v_proj and o_proj with full rotary embedding (Llama, Qwen, Mistral and Gemma families have that).
    """
    large = base.config.get_text_config()
    small = _small_config(large, size)
    if isinstance(base, MTPForCausalLM):
        config = MTPConfig(base_config=small, n_future_tokens=base.config.n_future_tokens)
        model: PreTrainedModel = MTPForCausalLM(config)
    else:
        model = AutoModelForCausalLM.from_config(small)
    stored = base.state_dict()
    chosen = {
        name: _select(name, stored[_name_in_base(name, large, small)], value, large, small)
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(chosen)
    return model.to(base.dtype)  # type: ignore[arg-type]  # transformers annotates `to` wrongly


def _small_config(large: PreTrainedConfig, size: MicroSize) -> PreTrainedConfig:
    for option, wanted in size.model_dump().items():
        if wanted > getattr(large, option):
            raise UserError(f"micro model: {option}={wanted} is more than the base's {getattr(large, option)}")
    rope = getattr(large, "rope_parameters", None) or {}
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError("micro model: a base that rotates only part of its channels cannot be cut; use random weights")
    small = copy.deepcopy(large)
    for option, wanted in size.model_dump().items():
        setattr(small, option, wanted)
    groups = large.num_attention_heads // large.num_key_value_heads
    small.num_key_value_heads = max(1, size.num_attention_heads // groups)
    small.head_dim = size.hidden_size // size.num_attention_heads
    if size.num_attention_heads % small.num_key_value_heads or small.head_dim > _head_dim(large) or small.head_dim % 2:
        raise UserError(
            f"micro model: {size.num_attention_heads} heads of {small.head_dim} channels do not fit into the base's "
            f"{large.num_attention_heads} of {_head_dim(large)}; choose another num_attention_heads or hidden_size"
        )
    if getattr(large, "layer_types", None):
        small.layer_types = large.layer_types[: size.num_hidden_layers]
    return small


def _head_dim(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _name_in_base(name: str, large: PreTrainedConfig, small: PreTrainedConfig) -> str:
    """The first layers are taken as they are; what stands last (a policy's heads) comes from the base's last."""
    last, heads = small.num_hidden_layers - 1, ".heads."
    return name.replace(f".layers.{last}.", f".layers.{large.num_hidden_layers - 1}.") if heads in name else name


def _select(name: str, source: Tensor, like: Tensor, large: PreTrainedConfig, small: PreTrainedConfig) -> Tensor:
    """Rows and columns of a large weight in the shape of a small one."""
    module = name.split(".")[-2]
    if module not in _ATTENTION and source.dim() != like.dim():
        raise UserError(f"micro model: {name} has another form in the base; use random weights")
    chosen = source
    for axis, length in enumerate(like.shape):
        channels_of_heads = module in _ATTENTION and axis == (1 if module == "o_proj" else 0)
        rows = _head_channels(module, large, small) if channels_of_heads else _evenly_spaced(source.shape[axis], length)
        chosen = chosen.index_select(axis, rows.to(source.device))
    assert chosen.shape == like.shape, (name, chosen.shape, like.shape)
    return chosen.clone()


def _head_channels(module: str, large: PreTrainedConfig, small: PreTrainedConfig) -> Tensor:
    """Rows of the chosen attention heads: of each, evenly spaced rotary pairs (i, i + half)."""
    counts = [c.num_key_value_heads if module in _KEY_VALUE else c.num_attention_heads for c in (large, small)]
    heads = _evenly_spaced(counts[0], counts[1])
    wide, narrow = _head_dim(large), cast(int, small.head_dim)
    half = _evenly_spaced(wide // 2, narrow // 2)
    within = torch.cat([half, half + wide // 2])
    return (heads[:, None] * wide + within).flatten()


def _evenly_spaced(available: int, wanted: int) -> Tensor:
    return torch.arange(wanted) * available // wanted
