"""What every model folder holds beside its weights: a card for people, a manifest for machines; and checks of both.

A folder is good if its files are the ones that were written, and if the weights have the names and shapes that its
config.json calls for. Both are found out without building the model: a 7B policy is checked in the time of reading it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from huggingface_hub import EvalResult
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from weighted_mtp.errors import UserError, first_line
from weighted_mtp.files import atomic_directory, atomic_file, check_files
from weighted_mtp.manifest import MANIFEST, read_manifest, write_manifest
from weighted_mtp.models.card import CARD, ModelOrigin, card
from weighted_mtp.models.checkpoint import (
    READ_ERRORS,
    load_tokenizer,
    quiet,
    read_config,
    unembedded_tokens,
)
from weighted_mtp.models.modelling import write_modelling
from weighted_mtp.models.mtp import MTPConfig

_VERSION = 1


def refuse_existing(output: Path) -> None:
    """Raise UserError if there is something in the way of a new folder."""
    if output.exists():
        raise UserError(f"{output}: exists already; give another output folder or remove it")


@contextmanager
def model_folder(output: Path) -> Iterator[Path]:
    """`atomic_directory`, of which a failure to write is a UserError."""
    try:
        with atomic_directory(output) as partial:
            yield partial
    except (OSError, SafetensorError) as error:
        raise UserError(f"{output}: writing the model failed: {first_line(error)}; make room and repeat") from error


def describe_model(
    folder: Path, name: str, origin: ModelOrigin, results: Sequence[EvalResult] = (), load_from: str = "FOLDER"
) -> None:
    """Write card, manifest and a policy's modelling file into a folder that holds a model called `name`.

    results, load_from  as of `card`

    Raises OSError if it cannot.
    """
    config = read_config(folder)
    is_policy = config.get("model_type") == MTPConfig.model_type
    if is_policy:
        write_modelling(folder)
    facts = {
        "n_future_tokens": config.get("n_future_tokens"),
        "parameters": sum(math.prod(shape) for shape in _stored_shapes(folder).values()),
        "dtype": config.get("dtype"),
    }
    with atomic_file(folder / CARD) as file:
        file.write_text(card(name, is_policy, origin, facts, results, load_from), encoding="utf-8")
    write_manifest(folder, {"version": _VERSION, "origin": asdict(origin), **facts})


def check_model(folder: Path) -> str:
    """Check files, weights and tokenizer of a model folder against each other; returns what the model is, in a line.

    Raises UserError for the first thing that is wrong.
    """
    manifest = read_manifest(folder)
    if manifest is None or not {"files", "n_future_tokens", "parameters"} <= manifest.keys():
        raise UserError(f"{folder}: has no {MANIFEST} of this program")
    check_files(folder, manifest["files"])
    stored, wanted = _stored_shapes(folder), _wanted_shapes(folder)
    if missing := sorted(wanted.keys() - stored.keys()):
        raise UserError(f"{folder}: lacks {len(missing)} weights that its config.json calls for, first {missing[0]}")
    if surplus := sorted(stored.keys() - wanted.keys()):
        raise UserError(f"{folder}: holds {len(surplus)} weights that config.json has no place for, first {surplus[0]}")
    for name, shape in wanted.items():
        if stored[name] != shape:
            raise UserError(f"{folder}: {name} has shape {stored[name]}, config.json calls for {shape}")
    heads, config = manifest["n_future_tokens"], read_config(folder)
    if heads != config.get("n_future_tokens"):
        raise UserError(f"{folder}: config.json has {config.get('n_future_tokens')} heads, its manifest {heads}")
    unembedded_tokens(load_tokenizer(folder), config.get("base_config", config)["vocab_size"], str(folder))
    kind = f"policy with {heads} heads" if heads else "causal LM"
    return f"{kind}, {manifest['parameters'] / 1e6:.1f} M parameters, {len(stored)} tensors"


def _stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of all weights, read off the headers of the safetensors files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as weights:
                shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: cannot be read as safetensors ({first_line(error)})") from error
    if not shapes:
        raise UserError(f"{folder}: holds no safetensors file")
    return shapes


def _wanted_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of what `save_pretrained` stores of the model that config.json describes."""
    with quiet():
        try:
            config = AutoConfig.from_pretrained(folder)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except READ_ERRORS as error:
            raise UserError(f"{folder / 'config.json'}: describes no model ({first_line(error)})") from error
    tied = model.all_tied_weights_keys if config.get_text_config().tie_word_embeddings else {}
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}
