"""Low-rank adapters (LoRA, arXiv 2106.09685) through PEFT: which layers get them, and the way back to plain weights.

A folder of adapters holds what was trained and nothing else, in PEFT's own form: `PeftModel.from_pretrained(model,
folder)` reads it, where `model` is what was trained, before (a policy with its heads, a value model). `config.json`
says what that is, and a fingerprint beside the weights tells whether it has changed since.
"""

import copy
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.lora import Linear, LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME, get_peft_model_state_dict
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from weighted_mtp.errors import UserError, first_line
from weighted_mtp.models.checkpoint import ADAPTERS, READ_ERRORS, load_tokenizer, save_tokenizer
from weighted_mtp.models.fingerprint import fingerprint
from weighted_mtp.models.model_folder import model_folder, refuse_existing
from weighted_mtp.models.mtp import MTPForCausalLM, decoder_layers
from weighted_mtp.models.weight_files import write_shards
from weighted_mtp.section import Section

_PEFT = "base_model.model."  # before every name in PEFT's files
_BASE = "frozen_weights"  # their fingerprint, in the metadata of adapters
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
    """Train heads 2 … H in full and give adapters to only the trunk and head 1; needed for `head_init: random`."""


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
    config._register_custom_module({nn.Linear: _AdaptedLinear})
    inject_adapter_in_model(config, model)
    for head in _full_heads(model, settings):
        head.requires_grad_(True)
    return model


class _AdaptedLinear(Linear):
    """PEFT's own layer, y + (alpha / r) · B A x, in which B's product adds to y and is scaled as it does.

    Written out, an adapter reads and writes the layer's whole output twice more: of a 7B model's microbatch on an H200
    some 7 % of the time (`benchmarks/planned_speed.py`).
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged or args or kwargs:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        y: Tensor = self.get_base_layer()(x)
        into, out = (cast(nn.Linear, part[name]) for part in (self.lora_A, self.lora_B))
        dropout: Callable[[Tensor], Tensor] = self.lora_dropout[name]
        narrow = into(dropout(self._cast_input_dtype(x, into.weight.dtype)))
        added = torch.addmm(y.flatten(0, -2), narrow.flatten(0, -2), out.weight.t(), alpha=self.scaling[name])
        return added.view_as(y).to(y.dtype)


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

    A copy; `model` itself, uncopied, if there are no adapters.
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


def save_merged(model: PreTrainedModel, directory: Path) -> None:
    """What `merge_lora(model).save_pretrained(directory)` writes, without a copy of the model: adapters are merged a
    file at a time, on the model's device, and the model stays as it is."""
    state = model.state_dict()
    converted = revert_weight_conversion(model, state) is not state  # stored in another form, which needs all at once
    if converted or not has_lora(model):
        merge_lora(model).save_pretrained(directory)
        return
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))
    adapted: dict[str, Any] = {f"{name}.weight": layer for name, layer in layers}
    unwanted = {*_tied(model), *(model._keys_to_ignore_on_save or ())}
    stored = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in state.items()
        if ".lora_" not in name and name not in unwanted
    }

    def merged(name: str) -> Tensor:
        layer = adapted.get(name)
        return stored[name].cpu() if layer is None else (stored[name] + layer.get_delta_weight("default")).cpu()

    directory.mkdir(parents=True, exist_ok=True)
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(directory)
    with torch.no_grad():
        write_shards({name: tensor.to("meta") for name, tensor in stored.items()}, merged, directory)


def _tied(model: PreTrainedModel) -> Iterable[str]:
    """The weights that are others by another name."""
    return model.all_tied_weights_keys if model.config.get_text_config().tie_word_embeddings else ()


def save_adapters(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str, directory: Path) -> None:
    """Write what is trained of a model with adapters, in PEFT's form: adapters, and `full_heads` or a value head whole.

    source  what heads and adapters were put on, as `load_base` is to find it
    """
    directory.mkdir(parents=True, exist_ok=True)
    weights = _trained_tensors(model)
    config = cast(LoraConfig, copy.copy(model.peft_config["default"]))
    config.base_model_name_or_path = source
    config.target_modules = _adapted_modules(weights)
    config.modules_to_save = sorted(_trained_whole(model)) or None
    config.task_type = "CAUSAL_LM" if isinstance(model, MTPForCausalLM) else None
    config.inference_mode = True
    config.save_pretrained(str(directory))
    model.config.save_pretrained(directory)
    frozen = ((n.replace(".base_layer.", "."), p) for n, p in model.named_parameters() if not p.requires_grad)
    about = {"format": "pt", _BASE: fingerprint(frozen)}
    save_file(weights, directory / SAFETENSORS_WEIGHTS_NAME, metadata=about)
    save_tokenizer(tokenizer, directory)


def _trained_whole(module: nn.Module, name: str = "") -> Iterator[str]:
    """The largest modules all of whose parameters are trained, adapters aside."""
    parameters = list(module.parameters())
    if isinstance(module, LoraLayer) or not any(p.requires_grad for p in parameters):
        return
    if all(p.requires_grad for p in parameters):
        yield name
        return
    for child, inner in module.named_children():
        yield from _trained_whole(inner, f"{name}.{child}".lstrip("."))


def _trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters by the names that PEFT gives them in a file."""
    trained = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    return {_PEFT + name.replace(".default.", "."): value for name, value in trained.items()}


def _adapted_modules(weights: Iterable[str]) -> list[str]:
    """Full names of the adapted modules: PEFT itself keeps only the ends of names, which fit one model."""
    return sorted({name.removeprefix(_PEFT).split(".lora_")[0] for name in weights if ".lora_" in name})


def holds_adapters(folder: Path) -> bool:
    """Whether a model folder holds adapters instead of a whole model."""
    return (folder / ADAPTERS).is_file()


def adapted_source(folder: Path) -> str:
    """What the adapters in a folder were applied to. UserError if that cannot be read."""
    try:
        return str(json.loads((folder / ADAPTERS).read_text())["base_model_name_or_path"])
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{folder / ADAPTERS}: cannot be read: {first_line(error)}") from error


def merge_saved(model: Adapted, folder: Path) -> Adapted:
    """`model` with a folder's adapters added into its weights, in place, and the rest that was trained in its place.

    model  what `adapted_source` says, with the heads that it had in training

    Raises UserError if the folder is damaged, or its adapters were trained on other weights.
    """
    try:
        with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, framework="pt") as file:
            stored, base = set(file.keys()), (file.metadata() or {}).get(_BASE)
        found = fingerprint((name, p) for name, p in model.named_parameters() if _PEFT + name not in stored)
        with warnings.catch_warnings(action="ignore"):  # of what is missing, which is an error below
            adapted = PeftModel.from_pretrained(model, str(folder))
        wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    except READ_ERRORS as error:
        raise UserError(
            f"{folder}: adapters that do not fit {adapted_source(folder)}, or are damaged: {first_line(error)}"
        ) from error
    if stored != wanted:
        odd = sorted(stored ^ wanted)
        raise UserError(
            f"{folder}: {len(odd)} weights are only on one side, adapters or {adapted_source(folder)}: first {odd[0]}"
        )
    if found != base:
        raise UserError(
            f"{folder}: {adapted_source(folder)} has other weights than these adapters were trained on: "
            "put back the model that it was, or train them again"
        )
    return adapted.merge_and_unload().requires_grad_(True)


def export_adapters(folder: Path, output: Path) -> None:
    """Write the adapters of trunk and head 1 for PEFT on the plain causal LM that these are: no heads, no framework.

    folder  adapters of a policy

    Raises UserError if the folder holds none, or is damaged, and for an `output` that exists.
    """
    refuse_existing(output)
    if not holds_adapters(folder):
        raise UserError(f"{folder}: holds a whole model, no adapters; train with training.save_lora_only=true")
    try:
        config = LoraConfig.from_pretrained(str(folder))
        weights = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    except READ_ERRORS as error:
        raise UserError(f"{folder}: cannot be read as adapters: {first_line(error)}") from error
    named = {_plain_name(name.removeprefix(_PEFT)): value for name, value in weights.items()}
    plain = {_PEFT + name: value for name, value in named.items() if name}
    config.target_modules = _adapted_modules(plain)
    config.modules_to_save = None  # only extra heads are trained whole
    with model_folder(output) as partial:
        config.save_pretrained(str(partial))
        save_file(plain, partial / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        save_tokenizer(load_tokenizer(folder), partial)


def _plain_name(name: str) -> str:
    """What a policy's module or weight is called in the plain causal LM; "" for one of the extra heads."""
    name = name.removeprefix("base.").replace(".heads.0.", ".")
    return "" if ".heads." in name else name
