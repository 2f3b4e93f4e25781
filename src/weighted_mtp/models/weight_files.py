"""Weights written a file at a time, under the names that `save_pretrained` gives its files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

SHARD_BYTES = 2 * 10**9
INDEX = "model.safetensors.index.json"


def write_shards(
    planned: Mapping[str, Tensor],
    load: Callable[[str], Tensor],
    folder: Path,
    shard_bytes: int = SHARD_BYTES,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write tensors, of which those of one file are in memory at a time.

    planned  name → a tensor of the shape and dtype that is written, on the meta device
    load     name → what is written
    advance  called with the bytes of each file
    """
    plan = split_torch_state_dict_into_shards(dict(planned), max_shard_size=shard_bytes)
    for filename, names in plan.filename_to_tensors.items():
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensor = load(name).contiguous()
            shared = any(tensor.data_ptr() == other.data_ptr() for other in tensors.values())
            tensors[name] = tensor.clone() if shared else tensor  # a tied checkpoint's output is its embedding
        save_file(tensors, folder / filename, metadata={"format": "pt"})
        advance(sum(tensor.nbytes for tensor in tensors.values()))
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
