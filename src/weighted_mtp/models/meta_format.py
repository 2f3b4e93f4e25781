"""Meta's multi-token-prediction checkpoints (`facebook/multi-token-prediction`): what they hold, under both names.

A folder holds `params.json` and `consolidated.pth`, the state dict of Meta's Llama with `extra_heads` beside its
`layers`. `n_layers` counts every block: with H heads, `layers[:-1]` is the trunk, and `[layers[-1]] + extra_heads` are
heads 1 … H.

Meta rotates a query's or key's channels in neighbouring pairs (2i, 2i + 1), Hugging Face's Llama pairs channel i with
i + d/2 (Su et al. 2021, arXiv 2104.09864, §3.4, either way). The dot product of a query and a key does not care in
which order their channels stand, so reordering the rows of `wq` and `wk` is all the difference there is.
"""

import mmap
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from weighted_mtp.errors import UserError, first_line

PARAMS, WEIGHTS = "params.json", "consolidated.pth"
_ROPE = "rope.freqs"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_BLOCK = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


class MetaParams(BaseModel):
    """`params.json`; what may be left out has the default of Meta's own code."""

    model_config = ConfigDict(extra="allow", frozen=True)

    dim: int = Field(ge=1)
    n_layers: int = Field(ge=1)
    """Blocks in all: trunk and heads."""
    n_heads: int = Field(ge=1)
    n_kv_heads: int | None = Field(None, ge=1)
    """Groups of queries that share keys and values; None: `n_heads`."""
    vocab_size: int | None = None
    """−1 or None: as many as the tokenizer has."""
    multiple_of: int | None = Field(None, ge=1)
    ffn_dim_multiplier: float | None = Field(None, gt=0)
    norm_eps: float = Field(1e-5, gt=0)
    rope_theta: float = Field(10_000.0, gt=0)
    n_future_tokens: int = Field(1, ge=1)
    max_seq_len: int | None = Field(None, ge=1)
    max_batch_size: int | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "MetaParams":
        if self.dim % self.n_heads or self.dim // self.n_heads % 2:
            raise ValueError(f"dim={self.dim} is no even multiple of n_heads={self.n_heads}")
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads={self.n_heads} is no multiple of n_kv_heads={self.n_kv_heads}")
        if self.n_layers <= self.n_future_tokens:
            raise ValueError(f"n_layers={self.n_layers} leaves no trunk under n_future_tokens={self.n_future_tokens}")
        for key, value in (self.model_extra or {}).items():
            if value:  # such as use_scaled_rope: what is not known may change what the model computes
                raise ValueError(f"{key}={value} is not known here; remove it if the model computes the same without")
        return self

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads


def mlp_width(dim: int, multiple_of: int, ffn_dim_multiplier: float | None) -> int:
    """Width of the MLP as Meta's code computes it: ⅔ · 4 · dim, scaled, rounded up to a multiple."""
    width = int(2 * 4 * dim / 3)
    if ffn_dim_multiplier is not None:
        width = int(ffn_dim_multiplier * width)
    return -(-width // multiple_of) * multiple_of


@dataclass(frozen=True)
class Geometry:
    """The sizes that determine name and shape of every weight.

    trunk, heads     layers below the heads; H
    dim, width       of the residual stream; of the MLP
    queries, keys    attention heads; groups of them that share keys and values
    vocabulary       rows of the embeddings
    """

    trunk: int
    heads: int
    dim: int
    width: int
    queries: int
    keys: int
    vocabulary: int


@dataclass(frozen=True)
class Weight:
    """A tensor's name in Meta's state dict and in the policy's; `rotary` > 0: the number of heads whose rows RoPE
    pairs."""

    meta: str
    policy: str
    shape: tuple[int, ...]
    rotary: int = 0

    def to_policy(self, tensor: Tensor) -> Tensor:
        """Meta's tensor as the policy has it: itself, or a copy with rows (2i, 2i + 1) moved to (i, i + d/2)."""
        return _swap(tensor, self.rotary, -1, 2) if self.rotary else tensor

    def to_meta(self, tensor: Tensor) -> Tensor:
        """The way back of `to_policy`."""
        return _swap(tensor, self.rotary, 2, -1) if self.rotary else tensor


def _swap(tensor: Tensor, heads: int, *pair: int) -> Tensor:
    return tensor.unflatten(0, (heads, -1)).unflatten(1, pair).transpose(1, 2).reshape(tensor.shape)


def expected_weights(geometry: Geometry) -> Iterator[Weight]:
    """Every weight of such a model, in the order of its layers."""
    g, rest = geometry, (geometry.vocabulary, geometry.dim)
    yield Weight("tok_embeddings.weight", "base.model.embed_tokens.weight", rest)
    for layer in range(g.trunk):
        yield from _block(g, f"layers.{layer}", f"base.model.layers.{layer}")
    for head in range(g.heads):
        meta = f"extra_heads.{head - 1}" if head else f"layers.{g.trunk}"
        yield from _block(g, meta, f"base.model.layers.{g.trunk}.heads.{head}")
    yield Weight("norm.weight", "base.model.norm.weight", (g.dim,))
    yield Weight("output.weight", "base.lm_head.weight", rest)


def _block(g: Geometry, meta: str, policy: str) -> Iterator[Weight]:
    key_rows = g.dim // g.queries * g.keys
    shapes = {
        "attention.wq": (g.dim, g.dim),
        "attention.wk": (key_rows, g.dim),
        "attention.wv": (key_rows, g.dim),
        "attention.wo": (g.dim, g.dim),
        "feed_forward.w1": (g.width, g.dim),
        "feed_forward.w2": (g.dim, g.width),
        "feed_forward.w3": (g.width, g.dim),
    }
    rotary = {"attention.wq": g.queries, "attention.wk": g.keys}
    for name, other in _BLOCK.items():
        shape = shapes.get(name, (g.dim,))
        yield Weight(f"{meta}.{name}.weight", f"{policy}.{other}.weight", shape, rotary.get(name, 0))


@dataclass(frozen=True)
class MetaCheckpoint:
    """A checkpoint that is complete and agrees with itself; its tensors are mapped from the file, not read."""

    params: MetaParams
    geometry: Geometry
    tensors: Mapping[str, Tensor]
    dtype: torch.dtype


def is_meta_checkpoint(path: Path) -> bool:
    """Whether a path is a folder with weights in Meta's format, complete or not."""
    return path.is_dir() and any(path.glob("consolidated*.pth"))


def read_meta(folder: Path) -> MetaCheckpoint:
    """Open a checkpoint and check its weights against its params.

    Raises UserError for files that are missing, broken or would run code, and for weights that are missing, not known,
    of another shape than `params.json` says, or not all of one dtype (fp32, bf16 or fp16): a policy has one.
    """
    params, file = _read_params(folder), _weights_file(folder)
    tensors = _map_weights(file)
    _check_blocks(file, params, tensors)
    geometry = Geometry(
        trunk=params.n_layers - params.n_future_tokens,
        heads=params.n_future_tokens,
        dim=params.dim,
        width=_rows(file, tensors, "layers.0.feed_forward.w1.weight"),
        queries=params.n_heads,
        keys=params.kv_heads,
        vocabulary=_rows(file, tensors, "tok_embeddings.weight"),
    )
    _check_sizes(folder / PARAMS, params, geometry)
    _check_rope(file, params, tensors.pop(_ROPE, None))
    expected = {weight.meta: weight.shape for weight in expected_weights(geometry)}
    dtype = check_weights(file, expected, {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}, PARAMS)
    return MetaCheckpoint(params, geometry, tensors, dtype)


def _read_params(folder: Path) -> MetaParams:
    file = folder / PARAMS
    try:
        return MetaParams.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); it comes with {WEIGHTS}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{file}: {where}{reason}; give the {PARAMS} that came with {WEIGHTS}") from error


def _weights_file(folder: Path) -> Path:
    files = sorted(folder.glob("consolidated*.pth"))
    if not files:
        raise UserError(f"{folder / WEIGHTS}: does not exist; download it into the folder of {PARAMS}")
    if len(files) > 1:
        raise UserError(
            f"{folder}: its weights are split over {len(files)} files ({files[0].name} …), as for model parallelism;"
            f" give a checkpoint in one {WEIGHTS}"
        )
    return files[0]


def _map_weights(file: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(file):  # the directory of such a file is at its end
        raise UserError(f"{file}: truncated, or not written by torch.save (since version 1.6); download it again")
    # Linux refuses a private mapping larger than memory and swap, but no shared one, for which torch opens the file
    # for writing. Nothing here writes to it.
    flags = mmap.MAP_SHARED if os.access(file, os.W_OK) else mmap.MAP_PRIVATE
    try:
        with torch.serialization.set_default_mmap_options(flags):
            tensors = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({asked[1]})" if asked else ""
        raise UserError(
            f"{file}: refused, since it holds more than weights{what} and reading that could run code;"
            " give a file that holds only a state dict"
        ) from error
    except (RuntimeError, OSError) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); download it again") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{file}: holds something other than a state dict; give Meta's own {WEIGHTS}")
    return dict(tensors)


def _check_blocks(file: Path, params: MetaParams, tensors: Mapping[str, Tensor]) -> None:
    found = {
        kind: len({n.split(".")[1] for n in tensors if n.startswith(f"{kind}.")}) for kind in ("layers", "extra_heads")
    }
    heads = params.n_future_tokens
    wanted = {"layers": params.n_layers - heads + 1, "extra_heads": heads - 1}
    if found != wanted:
        raise UserError(
            f"{file}: has {found['layers']} layers and {found['extra_heads']} extra_heads, but {PARAMS} with"
            f" n_layers={params.n_layers} and n_future_tokens={heads} calls for {wanted['layers']} and"
            f" {wanted['extra_heads']}; give the two files of one checkpoint"
        )


def _rows(file: Path, tensors: Mapping[str, Tensor], name: str) -> int:
    if name not in tensors or tensors[name].ndim != 2:
        raise UserError(f"{file}: lacks the matrix {name}; give Meta's own {WEIGHTS}")
    return tensors[name].shape[0]


def _check_sizes(file: Path, params: MetaParams, geometry: Geometry) -> None:
    said = params.vocab_size
    if said is not None and said != -1 and said != geometry.vocabulary:
        raise UserError(f"{file}: vocab_size={said}, but {WEIGHTS} embeds {geometry.vocabulary} tokens; set it to -1")
    if params.multiple_of is None:
        return
    width = mlp_width(params.dim, params.multiple_of, params.ffn_dim_multiplier)
    if width != geometry.width:
        raise UserError(
            f"{file}: multiple_of={params.multiple_of} and ffn_dim_multiplier={params.ffn_dim_multiplier} make an MLP"
            f" {width} wide, but {WEIGHTS} has {geometry.width}; give the {PARAMS} that came with it"
        )


def _check_rope(file: Path, params: MetaParams, stored: Tensor | None) -> None:
    """`rope.freqs` says nothing that rope_theta does not, unless the checkpoint was trained with other frequencies."""
    if stored is None:
        return
    channels = params.dim // params.n_heads
    expected = params.rope_theta ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
    coarse = 1e-2 if stored.dtype != torch.float32 else 1e-5
    if stored.shape != expected.shape or not torch.allclose(stored.double(), expected, rtol=coarse, atol=0):
        raise UserError(
            f"{file}: its {_ROPE} are not those of rope_theta={params.rope_theta} with {channels} channels per head;"
            f" set rope_theta in {PARAMS} to what it was trained with"
        )


def check_weights(
    source: Path,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    config: str,
) -> torch.dtype:
    """The one dtype of all weights. UserError where names, shapes or dtypes are not what the file `config` implies."""
    if missing := sorted(expected.keys() - found.keys()):
        raise UserError(f"{source}: lacks {len(missing)} weights, the first {missing[0]}; give a complete checkpoint")
    if unknown := sorted(found.keys() - expected.keys()):
        raise UserError(
            f"{source}: holds {len(unknown)} weights that such a model has no place for, the first {unknown[0]};"
            " give a checkpoint of this architecture"
        )
    for name, shape in expected.items():
        if found[name][0] != shape:
            raise UserError(
                f"{source}: {name} has shape {found[name][0]}, but {config} calls for {shape}; give both of one"
                " checkpoint"
            )
    dtypes = sorted({str(dtype).removeprefix("torch.") for _, dtype in found.values()})
    if len(dtypes) > 1:
        raise UserError(f"{source}: its weights are of {' and '.join(dtypes)}; save them all in one of these first")
    dtype = getattr(torch, dtypes[0])
    if dtype not in _DTYPES:
        raise UserError(f"{source}: its weights are {dtypes[0]}; give a checkpoint in float32, bfloat16 or float16")
    return dtype
