"""From the `model:` section to a policy and its tokenizer, and back to a folder."""

from pathlib import Path
from typing import cast

import torch
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerBase

from weighted_mtp.errors import UserError
from weighted_mtp.models.adapters import LoraSettings, apply_lora, save_merged
from weighted_mtp.models.checkpoint import load_tokenizer, quiet, save_tokenizer
from weighted_mtp.models.convert import load_base, with_heads
from weighted_mtp.models.micro import MicroSize, random_micro
from weighted_mtp.models.modelling import write_modelling
from weighted_mtp.models.mtp import HeadInit, MTPForCausalLM
from weighted_mtp.section import Section

MICRO_SOURCE = "micro"


class ModelConfig(Section):
    """Which policy to train."""

    source: str = MICRO_SOURCE
    """`micro` (a new one), a policy or its run, or a causal LM to put heads on: hub id, folder, .gguf file, a run with
    one head."""
    n_future_tokens: int = Field(4, ge=1, le=64)
    """Number of heads: head k predicts the k-th token from here; 1 is a plain causal LM."""
    head_init: HeadInit = "copy"
    """Extra heads of a causal LM: copies of its last layer, or fresh."""
    heads_lr: float | None = Field(None, gt=0)
    """Learning rate of heads 2 … H; `optim.lr` if not given."""
    head_warmup_steps: int = Field(0, ge=0)
    """First steps in which only heads 2 … H learn."""
    heads_only: bool = False
    """Only heads 2 … H ever learn. Trunk and head 1, and with them all texts, stay the model's own, which the heads
    learn to draft (Medusa-1: Cai et al. 2024, arXiv 2401.10774, §2.2.1)."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of all parameters."""
    micro: MicroSize = MicroSize()
    """Size of the new model, for `source: micro`."""
    micro_tokenizer: Path = Path("storage/datasets/micro/tokenizer")
    """Tokenizer of `source: micro`."""

    def _given(self, *names: str) -> list[str]:
        """Those of these options that have another value than their default."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]

    @model_validator(mode="after")
    def _options_of_extra_heads_have_some(self) -> "ModelConfig":
        about = self._given("head_warmup_steps", "heads_only", "heads_lr", "head_init")
        if self.lora is not None and self.lora.full_heads:
            about.append("lora.full_heads")
        if self.n_future_tokens == 1 and about:
            raise ValueError(
                f"{about[0]} is about heads 2 … H, and n_future_tokens=1: leave it out, or set n_future_tokens"
            )
        if self.source == MICRO_SOURCE and self.head_init != "copy":
            raise ValueError(
                f"head_init={self.head_init} has no effect with source=micro, whose heads are all drawn at random: "
                "leave it out"
            )
        return self

    @model_validator(mode="after")
    def _what_stays_frozen_needs_no_options(self) -> "ModelConfig":
        idle = self._given("head_warmup_steps", "heads_lr", "lora")
        if self.heads_only and idle:
            raise ValueError(
                f"{idle[0]} has no effect with heads_only=true, which trains heads 2 … H in full at optim.lr: leave "
                "it out"
            )
        if self.heads_only and self.source == MICRO_SOURCE:
            raise ValueError("heads_only=true would keep the random trunk of source=micro: give a trained model")
        return self

    @model_validator(mode="after")
    def _random_heads_are_trained(self) -> "ModelConfig":
        if self.head_init == "random" and self.lora is not None and not self.lora.full_heads:
            raise ValueError(
                "model.head_init=random with model.lora leaves random heads frozen under their adapters: "
                "set model.lora.full_heads=true, or model.head_init=copy"
            )
        return self


def build_policy(config: ModelConfig, seed: int) -> tuple[MTPForCausalLM, PreTrainedTokenizerBase]:
    """The policy to train, in fp32, with adapters if the configuration has them; a function of `config` and `seed`.

    Raises `UserError` if the source is no model, or a policy with another number of heads.
    """
    torch.manual_seed(seed)
    model, tokenizer = _new_micro(config) if config.source == MICRO_SOURCE else _from_source(config)
    if model.config.n_future_tokens != config.n_future_tokens:
        raise UserError(
            f"model.n_future_tokens={config.n_future_tokens}, but {config.source} has "
            f"{model.config.n_future_tokens} heads: set it to {model.config.n_future_tokens}"
        )
    set_trained(model, config)
    return model, tokenizer


def set_trained(model: MTPForCausalLM, config: ModelConfig) -> None:
    """Freeze what the configuration leaves as it is, and add the adapters that it trains instead."""
    if config.lora is not None:
        apply_lora(model, config.lora)
    if config.heads_only:
        for parameter in model.trunk_parameters():
            parameter.requires_grad_(False)


def _from_source(config: ModelConfig) -> tuple[MTPForCausalLM, PreTrainedTokenizerBase]:
    model, tokenizer = load_base(config.source, "float32")
    if isinstance(model, MTPForCausalLM) and model.config.n_future_tokens > 1:
        if config.head_init != "copy":
            raise UserError(
                f"model.head_init={config.head_init} has no effect: {config.source} has its heads already; leave it out"
            )
        return model, tokenizer
    return with_heads(model, config.n_future_tokens, config.head_init), tokenizer


def _new_micro(config: ModelConfig) -> tuple[MTPForCausalLM, PreTrainedTokenizerBase]:
    tokenizer = load_tokenizer(config.micro_tokenizer)
    return cast(MTPForCausalLM, random_micro(config.micro, tokenizer, config.n_future_tokens)), tokenizer


def save_policy(model: MTPForCausalLM, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write a folder that `load_policy` and, with its own code, transformers read: adapters merged, with tokenizer."""
    with quiet():
        save_merged(model, directory)
        save_tokenizer(tokenizer, directory)
        write_modelling(directory)
