"""From a pretrained causal LM to a policy with heads, and from a policy back to a plain causal LM.

A source is a folder that transformers reads, a run, a `.gguf` file (dequantised to fp32), or a model hub's id.
"""

import copy
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.errors import UserError
from weighted_mtp.hub import fetch
from weighted_mtp.models.adapters import adapted_source, holds_adapters, merge_saved
from weighted_mtp.models.card import ModelOrigin, completed, is_hub_id
from weighted_mtp.models.catalog import setup_command
from weighted_mtp.models.checkpoint import (
    CRITIC,
    Dtype,
    check_vocabulary,
    foreign_adapters,
    load_model,
    load_policy,
    load_tokenizer,
    newest_model,
    quiet,
    read_config,
    save_tokenizer,
)
from weighted_mtp.models.meta import convert_meta, is_meta_checkpoint
from weighted_mtp.models.model_folder import describe_model, model_folder, refuse_existing
from weighted_mtp.models.mtp import HeadInit, MTPConfig, MTPForCausalLM, PredictionHeads, decoder_layers
from weighted_mtp.wording import near_paths

Heads = int | Literal["as stored"] | None
"""Prediction heads: a number; as many as a policy has, and `DEFAULT_HEADS` for a plain model; or none, a causal LM."""
DEFAULT_HEADS = 4


def load_base(source: str, dtype: Dtype = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM (a policy, too) and its tokenizer; adapters are merged into what they were put on.

    source  folder, run (its newest checkpoint), `.gguf` file or hub id
    dtype   `auto` keeps the stored one (fp32 for GGUF and adapters); else "float32", "bfloat16" …

    Raises UserError for a missing path, something that is no complete causal LM, whatever `hub.fetch` refuses, and a
    tokenizer with more tokens than embeddings.
    """
    path = find_model(source)
    if path.is_file():
        return _load_gguf(path, dtype)
    if holds_adapters(path):
        return _load_adapted(path, dtype)
    if read_config(path).get("model_type") == MTPConfig.model_type:
        return load_policy(path, dtype)
    return _load(str(path), str(path), dtype)


def _load_adapted(folder: Path, dtype: Dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Merged in fp32, in which adapters are trained, whatever `dtype` is returned then."""
    config = read_config(folder)
    kind = config.get("model_type")
    if kind == CRITIC:
        raise UserError(f"{folder}: adapters of a critic, which is no causal LM; give a policy or its run")
    if kind != MTPConfig.model_type:
        raise foreign_adapters(folder)
    base, _ = load_base(adapted_source(folder), "float32")
    heads = config["n_future_tokens"]
    same = isinstance(base, MTPForCausalLM) and base.config.n_future_tokens == heads
    policy = merge_saved(with_heads(base if same else without_heads(base), heads), folder)
    if dtype != "auto":
        nn.Module.to(policy, getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return policy, load_tokenizer(folder)


def adapter_base(source: str) -> str:
    """`source` of `load_base` as adapters name what they were put on: of a run, the checkpoint that was read."""
    return str(find_model(source)) if Path(source).expanduser().exists() else source


def find_model(source: str) -> Path:
    """The model folder or `.gguf` file that `source` of `load_base` means; what a hub has is fetched.

    Raises UserError for a missing path, a folder without a model, and whatever `hub.fetch` refuses.
    """
    path = Path(source).expanduser()
    if not source:
        raise UserError("a model's name is empty: give a model folder, a run, a .gguf file or a hub id")
    if path.is_file():
        return path
    if not path.is_dir():
        if len(path.parts) > 2:  # no hub id
            near = near_paths(path)
            raise UserError(f"{source}: no such path{near or f'; make a model with `{setup_command(path.name)}`'}")
        path = fetch(
            source, "model", instead="there is no such path here either: give a model folder or a .gguf file"
        ).folder
    if is_meta_checkpoint(path):
        raise UserError(f"{path}: a checkpoint in Meta's format; convert it with `wmtp models convert {path} OUTPUT`")
    return newest_model(path)


def _load(source: str, folder: str, dtype: Dtype, **where: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = load_model(AutoModelForCausalLM, folder, dtype, surplus=True, **where)
    tokenizer = load_tokenizer(folder, **where)
    check_vocabulary(model, tokenizer, source)
    return model, tokenizer


def _load_gguf(path: Path, dtype: Dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"{path}: not a GGUF file; give a model folder, a .gguf file or a hub id")
    # Dequantised values need more than the half precision in which many files store their few unquantised ones.
    wide = "float32" if dtype == "auto" else dtype
    model, tokenizer = _load(str(path), str(path.parent), wide, gguf_file=path.name)
    # The weights are ordinary ones now; what still calls them quantised would keep the model from being saved.
    model.hf_quantizer = None  # type: ignore[assignment]
    del model.config.quantization_config
    return model, tokenizer


def to_causal_lm(model: MTPForCausalLM) -> PreTrainedModel:
    """A copy of trunk + head 1 as a model of the base's own class, whose `save_pretrained` writes an ordinary one."""
    unwanted = {id(head): nn.Identity() for head in model.heads.extra}
    plain = copy.deepcopy(model.base, memo=unwanted)  # the extra heads' memory is not copied
    layers = decoder_layers(plain)
    layers[-1] = cast(PredictionHeads, layers[-1]).heads[0]
    return plain


def with_heads(
    model: PreTrainedModel, heads: int | Literal["as stored"], head_init: HeadInit = "copy"
) -> MTPForCausalLM:
    """A causal LM as a policy with this many heads, of which `model` becomes a part; a policy that has them, itself.

    A policy of one head is a causal LM, too, and gets further heads as a copy. Raises UserError for one with several
    heads and not as many, and for what `MTPForCausalLM.from_base` refuses.
    """
    if isinstance(model, MTPForCausalLM):
        if heads in ("as stored", model.config.n_future_tokens):
            return model
        if model.config.n_future_tokens == 1:
            model = to_causal_lm(model)
    return MTPForCausalLM.from_base(model, DEFAULT_HEADS if heads == "as stored" else heads, head_init)


def without_heads(model: PreTrainedModel) -> PreTrainedModel:
    """A policy's plain causal LM, as a copy; any other model itself."""
    return to_causal_lm(model) if isinstance(model, MTPForCausalLM) else model


def convert(
    source: str,
    output: Path,
    heads: Heads = "as stored",
    head_init: HeadInit = "copy",
    dtype: Dtype = "auto",
    seed: int = 0,
    origin: ModelOrigin | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Write the model folder `output` in safetensors, with tokenizer, card and manifest; all of it or nothing.

    source     a causal LM as `load_base` takes it, or a folder in Meta's format (consolidated.pth), which is streamed
    seed       matters for `head_init="random"` only
    origin     what the card says of where the model comes from
    tokenizer  SentencePiece model of a source in Meta's format, if it has none of its own

    Raises UserError for what `load_base`, `convert_meta` and `with_heads` refuse, for a `tokenizer` of any other
    source, for an `output` that exists, and where writing fails.
    """
    origin = origin or _origin(source)
    if is_meta_checkpoint(Path(source)):
        convert_meta(Path(source), output, origin, heads, tokenizer=tokenizer)
        return
    if tokenizer is not None:
        raise UserError(
            f"--tokenizer {tokenizer}: is only useful for Meta's format, which {source} is not; leave it out"
        )
    refuse_existing(output)
    model, own = load_base(source, dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        converted = without_heads(model) if heads is None else with_heads(model, heads, head_init)
    write_model(converted, own, output, completed(origin, Path(own.name_or_path)))


def _origin(source: str) -> ModelOrigin:
    how = "Converted to safetensors."
    return ModelOrigin(source, how, base_model=source) if is_hub_id(source) else ModelOrigin(Path(source).name, how)


def export_plain(policy: Path, output: Path) -> None:
    """Write trunk + head 1 of a policy folder as an ordinary causal LM folder, with the tokenizer.

    Raises UserError for what `load_policy` refuses, for an `output` that exists, and where writing fails.
    """
    refuse_existing(output)
    folder = newest_model(policy)
    model, tokenizer = load_base(str(folder)) if holds_adapters(folder) else load_policy(folder)
    origin = completed(ModelOrigin(policy.name, "Trunk and head 1 of a policy."), folder)
    write_model(to_causal_lm(cast(MTPForCausalLM, model)), tokenizer, output, origin)


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, output: Path, origin: ModelOrigin) -> None:
    """Write a model folder with tokenizer, card and manifest, replacing an older one; all of it or nothing.

    Raises UserError if it cannot be written.
    """
    with model_folder(output) as partial, quiet():
        model.save_pretrained(partial)
        save_tokenizer(tokenizer, partial)
        describe_model(partial, output.name, origin)
