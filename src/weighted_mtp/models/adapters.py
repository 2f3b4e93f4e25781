"""Low-rank adapters (LoRA, arXiv 2106.09685) through PEFT: which layers get them, and the way back to plain weights."""

import copy
from typing import TypeVar

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from weighted_mtp.config import Section
from weighted_mtp.errors import UserError
from weighted_mtp.models.mtp import MTPForCausalLM, decoder_layers

Adapted = TypeVar("Adapted", bound=PreTrainedModel)  # a policy, or anything else around a decoder


class LoraSettings(Section):
    """Adapters ΔW = (alpha / r) · B A on linear layers of the trunk and of all heads; everything else is frozen."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale; the update is multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapters' input."""
    target_modules: tuple[str, ...] = ()
    """Names of linear layers, such as q_proj; empty for all of attention and MLP."""
    full_heads: bool = False
    """Train heads 2 … H in full and give adapters to the trunk and head 1 alone; needed for `head_init: random`."""


def apply_lora(model: Adapted, settings: LoraSettings) -> Adapted:
    """Put adapters into `model`, in place; afterwards only they (and `full_heads`) require gradients.

    The model computes what it did before, since B starts at zero. The unembedding gets no adapter: it is often the
    input embedding, too, and merging one into it would change both.

    Raises UserError for a target that no linear layer of the decoder is called.
    """
    targets = _targets(model, settings)
    config = LoraConfig(
        r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets, bias="none"
    )
    inject_adapter_in_model(config, model)
    for head in _full_heads(model, settings):
        head.requires_grad_(True)
    return model


def _full_heads(model: PreTrainedModel, settings: LoraSettings) -> list[nn.Module]:
    """Heads to be trained without adapters; a setting that models other than policies refuse."""
    if not settings.full_heads:
        return []
    assert isinstance(model, MTPForCausalLM)
    return list(model.heads.extra)


def _targets(model: PreTrainedModel, settings: LoraSettings) -> list[str]:
    """Full names of the linear layers that get adapters."""
    full = {id(module) for head in _full_heads(model, settings) for module in head.modules()}
    linear = [
        f"{prefix}.{name}"
        for prefix, layer in _decoder_layers_by_name(model)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in full
    ]
    known = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if unknown := [name for name in settings.target_modules if name not in known]:
        raise UserError(f"lora.target_modules: {unknown[0]} is no linear layer of the decoder; choose of {known}")
    wanted = settings.target_modules or known
    return [name for name in linear if name.rsplit(".", 1)[-1] in wanted]


def _decoder_layers_by_name(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    layers = {id(layer) for layer in decoder_layers(model)}
    return [(name, module) for name, module in model.named_modules() if id(module) in layers]


def has_lora(model: nn.Module) -> bool:
    return any(isinstance(module, LoraLayer) for module in model.modules())


def merge_lora(model: Adapted) -> Adapted:
    """The model with its adapters added into the weights, which `save_pretrained` writes as an ordinary one.

    A copy; `model` itself, uncopied, where there are no adapters.
    """
    if not has_lora(model):
        return model
    merged = copy.deepcopy(model)
    for name, module in list(merged.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, attribute = name.rpartition(".")
            setattr(merged.get_submodule(parent), attribute, module.get_base_layer())
    return merged.requires_grad_(True)
