"""Meta's multi-token-prediction checkpoint → policy folder, and back; streamed, so that 25 GB need little memory.

Weights are mapped from the file that they are read from and written a shard at a time. What has to be held in memory
besides is each shard's `wq` and `wk`, whose rows are reordered: about a sixth of a shard.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerBase

from weighted_mtp.errors import UserError, first_line
from weighted_mtp.models.adapters import holds_adapters
from weighted_mtp.models.card import ModelOrigin
from weighted_mtp.models.checkpoint import (
    READ_ERRORS,
    SENTENCEPIECE,
    newest_model,
    quiet,
    read_config,
    save_tokenizer,
)
from weighted_mtp.models.meta_format import (
    PARAMS,
    WEIGHTS,
    Geometry,
    MetaCheckpoint,
    Weight,
    check_weights,
    expected_weights,
    is_meta_checkpoint,
    mlp_width,
    read_meta,
)
from weighted_mtp.models.meta_tokenizer import find_sentencepiece, llama_tokenizer, read_sentencepiece
from weighted_mtp.models.model_folder import describe_model, model_folder, refuse_existing
from weighted_mtp.models.mtp import MTPConfig, MTPForCausalLM
from weighted_mtp.models.weight_files import SHARD_BYTES, write_shards
from weighted_mtp.progress import Advance, progress

__all__ = ["convert_meta", "export_meta", "is_meta_checkpoint"]

LLAMA_2_CONTEXT = 4096


def convert_meta(
    source: Path,
    output: Path,
    origin: ModelOrigin | None = None,
    heads: int | Literal["as stored"] | None = "as stored",
    *,
    tokenizer: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> MTPConfig:
    """Write the policy folder `output` from a checkpoint in Meta's format; all of it or nothing.

    source       folder with consolidated.pth and params.json
    origin       what the card says of where it comes from
    heads        how many the caller expects
    tokenizer    SentencePiece model; where not given, tokenizer.model in `source` or in the folder above
    shard_bytes  largest size of a file of weights

    The stored dtype is kept. `tokenizer.model` is copied, too, for the way back.

    Raises UserError for what `read_meta` and `llama_tokenizer` refuse, for another number of heads than expected, for
    an `output` that exists, and where writing fails.
    """
    refuse_existing(output)
    checkpoint = read_meta(source)
    if heads not in ("as stored", checkpoint.geometry.heads):
        raise UserError(
            f"{source}: has n_future_tokens = {checkpoint.geometry.heads} heads; convert it with these, and export the"
            " plain model of that if you want other heads or none"
        )
    sentencepiece = find_sentencepiece(source, tokenizer)
    fast = llama_tokenizer(sentencepiece, checkpoint.geometry.vocabulary)
    config = _policy_config(checkpoint, fast)
    weights = {weight.policy: weight for weight in expected_weights(checkpoint.geometry)}

    def load(name: str) -> Tensor:
        return weights[name].to_policy(checkpoint.tensors[weights[name].meta])

    shapes = {name: weight.shape for name, weight in weights.items()}
    total = _bytes(shapes, checkpoint.dtype)
    with model_folder(output) as partial, progress(f"converting {source}, bytes", total) as advance:
        write_shards(_planned(shapes, checkpoint.dtype), load, partial, shard_bytes, advance)
        config.save_pretrained(partial)
        GenerationConfig(bos_token_id=fast.bos_token_id, eos_token_id=fast.eos_token_id).save_pretrained(partial)
        save_tokenizer(fast, partial)
        shutil.copyfile(sentencepiece, partial / SENTENCEPIECE)
        describe_model(partial, output.name, origin or ModelOrigin(source.name, "Converted from Meta's format."))
    return config


def _policy_config(checkpoint: MetaCheckpoint, tokenizer: PreTrainedTokenizerBase) -> MTPConfig:
    params, geometry = checkpoint.params, checkpoint.geometry
    base = LlamaConfig(
        vocab_size=geometry.vocabulary,
        hidden_size=geometry.dim,
        intermediate_size=geometry.width,
        num_hidden_layers=geometry.trunk + 1,
        num_attention_heads=geometry.queries,
        num_key_value_heads=geometry.keys,
        max_position_embeddings=params.max_seq_len or LLAMA_2_CONTEXT,
        rms_norm_eps=params.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": params.rope_theta},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return MTPConfig(
        base_config=base,
        n_future_tokens=geometry.heads,
        dtype=checkpoint.dtype,
        architectures=[MTPForCausalLM.__name__],
    )


def export_meta(policy: Path, output: Path, *, tokenizer: Path | None = None) -> None:
    """Write a policy folder as a checkpoint in Meta's format, the way back of `convert_meta`; all of it or nothing.

    policy     folder of a Llama policy, or a run (its newest checkpoint)
    tokenizer  SentencePiece model; where not given, the policy's tokenizer.model

    Names, values and dtype are those that `convert_meta` read, bit for bit; `rope.freqs`, which only some checkpoints
    have and none need, is not written. Streamed, too: the reordered weights, a sixth of the checkpoint, take disk space
    twice until the end.

    Raises UserError for a folder that is no policy or no plain Llama (tied embeddings, biases, scaled RoPE), whose
    weights are not those that its config.json calls for, or that has no SentencePiece model; for an `output` that
    exists, and where writing fails.
    """
    refuse_existing(output)
    policy = newest_model(policy)
    if holds_adapters(policy):
        raise UserError(f"{policy}: holds only adapters; merge them first: `wmtp models convert {policy} DIR`")
    config = _read_llama_policy(policy)
    base = cast(LlamaConfig, config.base_config)
    geometry = Geometry(
        trunk=base.num_hidden_layers - 1,
        heads=config.n_future_tokens,
        dim=base.hidden_size,
        width=base.intermediate_size,
        queries=base.num_attention_heads,
        keys=cast(int, base.num_key_value_heads),
        vocabulary=base.vocab_size,
    )
    sentencepiece = find_sentencepiece(policy, tokenizer)
    read_sentencepiece(sentencepiece, geometry.vocabulary)
    weights, stored = list(expected_weights(geometry)), _map_policy(policy)
    expected = {weight.policy: weight.shape for weight in weights}
    dtype = check_weights(
        policy, expected, {name: (tuple(t.shape), t.dtype) for name, t in stored.items()}, "config.json"
    )
    with model_folder(output) as partial:
        (partial / PARAMS).write_text(json.dumps(_params(base, geometry), indent=2) + "\n")
        shutil.copyfile(sentencepiece, partial / SENTENCEPIECE)
        with progress(f"exporting {policy}, bytes", _bytes(expected, dtype)) as advance:
            _write_meta(weights, stored, partial, advance)


def _write_meta(weights: Sequence[Weight], stored: Mapping[str, Tensor], folder: Path, advance: Advance) -> None:
    """consolidated.pth. torch.save wants all tensors at once: reordered ones are written to disk and mapped again."""
    rotary = {weight.meta: weight for weight in weights if weight.rotary}
    scratch = folder / "reordered"
    scratch.mkdir()

    def load(name: str) -> Tensor:
        return rotary[name].to_meta(stored[rotary[name].policy])

    dtype = next(iter(stored.values())).dtype
    write_shards(_planned({w.meta: w.shape for w in rotary.values()}, dtype), load, scratch)
    reordered = _map_files(sorted(scratch.glob("*.safetensors")))
    state = {w.meta: reordered[w.meta] if w.rotary else stored[w.policy] for w in weights}
    try:
        with (folder / WEIGHTS).open("wb") as file:
            torch.save(state, cast(IO[bytes], _Counted(file, advance)))
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # what the file said, behind what torch makes of it
            raise OSError(*error.__context__.args) from error
        raise
    shutil.rmtree(scratch)


class _Counted:
    """A file that reports how many bytes are written to it."""

    def __init__(self, file: IO[bytes], advance: Advance) -> None:
        self.file, self.advance = file, advance

    def write(self, data: bytes | memoryview) -> int:
        self.advance(len(data))
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _params(base: LlamaConfig, geometry: Geometry) -> dict[str, object]:
    """params.json as Meta's loader takes it, to which it adds max_seq_len itself."""
    params: dict[str, object] = {
        "dim": geometry.dim,
        "n_layers": geometry.trunk + geometry.heads,
        "n_heads": geometry.queries,
        "n_kv_heads": geometry.keys,
        "vocab_size": geometry.vocabulary,
        "norm_eps": base.rms_norm_eps,
        "rope_theta": cast(dict, base.rope_parameters)["rope_theta"],
        "n_future_tokens": geometry.heads,
    }
    for multiple in (256, 128, 64, 32):
        if mlp_width(geometry.dim, multiple, None) == geometry.width:
            return {**params, "multiple_of": multiple}
    # Any other width: a factor that lands in the middle between it and the next, which rounding down makes exact.
    factor = (geometry.width + 0.5) / mlp_width(geometry.dim, 1, None)
    return {**params, "multiple_of": 1, "ffn_dim_multiplier": factor}


def _read_llama_policy(folder: Path) -> MTPConfig:
    if read_config(folder).get("model_type") != MTPConfig.model_type:
        raise UserError(f"{folder}: has no prediction heads, which Meta's format is for; give a policy folder")
    try:
        with quiet():
            config = MTPConfig.from_pretrained(folder)
    except READ_ERRORS as error:
        raise UserError(f"{folder / 'config.json'}: cannot be read as a policy's ({first_line(error)})") from error
    base = config.base_config
    if not isinstance(base, LlamaConfig):
        kind = getattr(base, "model_type", None)
        raise UserError(f"{folder}: a policy on {kind}, but Meta's format knows only Llama; export the plain model")
    rope = cast(dict, base.rope_parameters)
    beyond = {
        "tie_word_embeddings=true": base.tie_word_embeddings,
        "attention_bias=true": base.attention_bias,
        "mlp_bias=true": base.mlp_bias,
        f"rope_type={rope.get('rope_type')}": rope.get("rope_type", "default") != "default",
        f"hidden_act={base.hidden_act}": base.hidden_act != "silu",
        f"head_dim={base.head_dim}": base.head_dim != base.hidden_size // base.num_attention_heads,
    }
    for setting, has in beyond.items():
        if has:
            raise UserError(f"{folder}: has {setting}, for which Meta's format has no place; export the plain model")
    return config


def _map_policy(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: holds no safetensors file; give a complete policy folder")
    return _map_files(files)


def _map_files(files: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of some safetensors files, mapped from them: a tensor's memory is the file's."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as stored:
                tensors |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: cannot be read as safetensors ({first_line(error)})") from error
    return tensors


def _planned(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}


def _bytes(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize
