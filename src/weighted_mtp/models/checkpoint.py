"""Reading model folders strictly: what transformers only warns about (missing weights, drawn at random) is an error."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import transformers
from safetensors import SafetensorError
from torch.nn import Embedding
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.errors import UserError, first_line
from weighted_mtp.models.mtp import MTPConfig, MTPForCausalLM
from weighted_mtp.progress import say
from weighted_mtp.wording import near_paths

Model = TypeVar("Model", bound=PreTrainedModel)
Dtype = str | torch.dtype  # "auto" (as stored), "float32", "bfloat16" …

SENTENCEPIECE = "tokenizer.model"
CRITIC = "weighted_mtp_value"
"""`model_type` of a value model."""
ADAPTERS = "adapter_config.json"
"""PEFT's description of a folder of adapters."""

# What transformers raises for folders that are broken in one way or another.
READ_ERRORS = (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError)


def load_model(auto_class: Any, source: str, dtype: Dtype, surplus: bool, **where: Any) -> PreTrainedModel:
    """`from_pretrained` in which every parameter comes from the checkpoint.

    auto_class  whose `from_pretrained` reads it
    surplus     whether the checkpoint may hold weights that the model has no use for (many published ones do)
    where       further arguments of `from_pretrained`: `gguf_file`, `local_files_only`

    Raises UserError for weights that are missing, of another shape or unreadable, and for an architecture that
    transformers does not know.
    """
    with quiet():
        try:
            model, report = auto_class.from_pretrained(source, dtype=dtype, output_loading_info=True, **where)
        except READ_ERRORS as error:
            raise UserError(f"{source}: cannot be read as a model: {first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{source}: lacks {len(missing)} weights that its config.json calls for, the first {missing[0]};"
            " give a complete checkpoint with the config.json it was saved with"
        )
    if not surplus and (unused := sorted(report["unexpected_keys"])):
        raise UserError(
            f"{source}: holds {len(unused)} weights for which its config.json has no place, the first {unused[0]};"
            " give the config.json it was saved with"
        )
    return model


def load_complete(model_class: type[Model], folder: Path, dtype: Dtype) -> tuple[Model, PreTrainedTokenizerBase]:
    """A model of ours from the folder that it was saved to, nothing missing and nothing left over, and its tokenizer.

    Raises what `load_model`, `load_tokenizer` and `check_vocabulary` raise.
    """
    model = load_model(model_class, str(folder), dtype, surplus=False)
    tokenizer = load_tokenizer(folder)
    check_vocabulary(model, tokenizer, str(folder))
    return cast(Model, model), tokenizer


def load_policy(path: str | Path, dtype: Dtype = "auto") -> tuple[MTPForCausalLM, PreTrainedTokenizerBase]:
    """The policy of a folder that `save_pretrained` wrote, and its tokenizer: the one way to load policies.

    Raises UserError for a folder that is missing, is no policy, is truncated, has other heads than its config says,
    or whose tokenizer does not fit the embeddings.
    """
    folder = Path(path)
    config = read_config(folder)
    if config.get("model_type") != MTPConfig.model_type:
        raise UserError(
            f"{folder}: a {config.get('model_type')} model without prediction heads; make a policy of it first"
        )
    if not isinstance(config.get("base_config"), dict) or not isinstance(config.get("n_future_tokens"), int):
        raise UserError(
            f"{folder / 'config.json'}: lacks base_config (the model under the heads) or n_future_tokens (how many);"
            " give the one the policy was saved with"
        )
    return load_complete(MTPForCausalLM, folder, dtype)


def load_tokenizer(source: str | Path, **where: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder (or, with `gguf_file`, of a GGUF file). UserError if there is none."""
    with quiet():
        try:
            return AutoTokenizer.from_pretrained(str(source), **where)
        except READ_ERRORS as error:
            raise UserError(f"{source}: no readable tokenizer: {first_line(error)}") from error


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer, and the SentencePiece model beside its files if there is one: Meta's format needs it.

    Raises OSError if it cannot be written.
    """
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # all that the tokenizers library raises if it cannot write
        raise OSError(first_line(error)) from error
    pieces = Path(tokenizer.name_or_path) / SENTENCEPIECE
    if pieces.is_file() and not (folder / SENTENCEPIECE).exists() and "gguf_file" not in tokenizer.init_kwargs:
        shutil.copyfile(pieces, folder / SENTENCEPIECE)


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Refuse a tokenizer that makes tokens of plain text for which the model has no embedding, or ends with one.

    Special tokens beyond the embedding (a `[PAD]` that somebody added, an image's place) are said: no text makes them
    but a chat template's, which `check_embedded` looks at.
    """
    size = cast(Embedding, model.get_input_embeddings()).weight.shape[0]
    if surplus := unembedded_tokens(tokenizer, size, source):
        say(
            f"{source}: the tokenizer's {', '.join(surplus)} {'is' if len(surplus) == 1 else 'are'} beyond the model's "
            f"{size} embeddings; used without"
        )


def unembedded_tokens(tokenizer: PreTrainedTokenizerBase, size: int, source: str) -> list[str]:
    """The special tokens beyond `size` embeddings. Raises UserError for such a token that texts have in them."""
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= size}
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    needed = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, *tokenizer.encode("")}
    if unusable := sorted(beyond.keys() - special | beyond.keys() & needed):
        raise UserError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens but the model embeds {size}, so that "
            f"{beyond[unusable[0]]!r} (token {unusable[0]}) has no embedding; give the tokenizer that the model was "
            "trained with, or call resize_token_embeddings and save the model again"
        )
    return [beyond[number] for number in sorted(beyond)]


def check_embedded(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, largest: Callable[[], int], what: str
) -> None:
    """Raise UserError where `what` holds a token without embedding: a special one, which a chat template writes.

    largest  finds the largest token id in it, which may take a while
    """
    size = cast(Embedding, model.get_input_embeddings()).weight.shape[0]
    if len(tokenizer) > size and (found := largest()) >= size:
        raise UserError(
            f"{what} holds {tokenizer.convert_ids_to_tokens(found)!r} (token {found}), but the model embeds {size} "
            "tokens; use template alpaca, or a chat template without it"
        )


def context_of(model: PreTrainedModel) -> int | None:
    """How many tokens the model's positions go up to, None if its configuration does not say."""
    config = model.config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "max_seq_len")  # the second is MPT's
    return next((int(getattr(config, name)) for name in names if getattr(config, name, None) is not None), None)


def check_context(model: PreTrainedModel, longest: int) -> None:
    """Raise UserError if a sample of `longest` tokens, prompt included, is beyond the model's positions."""
    context = context_of(model)
    if context is not None and longest > context:
        raise UserError(
            f"a sample has {longest:,} tokens, but the model's context is {context:,}: set data.max_length={context}"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model folder. UserError if the folder or the file is missing or broken."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such model folder{near_paths(folder)}")
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: not a model folder, it has no config.json") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}") from error


def checkpoints_in(directory: Path) -> list[Path]:
    """The complete checkpoints in `directory`, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(p for p in directory.iterdir() if re.fullmatch(r"step-\d{8}", p.name))


def step_of(checkpoint: Path) -> int:
    """Optimizer steps that a checkpoint was made after."""
    return int(checkpoint.name.removeprefix("step-"))


def newest_model(path: Path) -> Path:
    """The model folder that `path` means: itself, a checkpoint's `model`, or that of a run's newest checkpoint.

    Raises `UserError` if there is none.
    """
    newest = checkpoints_in(path / "checkpoints")
    for candidate in (path, path / "model", *(c / "model" for c in newest[-1:])):
        if (candidate / "config.json").is_file():
            return candidate
    if (path / ADAPTERS).is_file():
        raise foreign_adapters(path)
    raise UserError(
        f"{path}: holds no model (config.json), no checkpoint and no run with a checkpoint; train one first"
    )


def run_of(model: Path) -> Path | None:
    """The folder of the run that a model (the run itself, or something in it) belongs to; None if there is none."""
    for folder in (model, *model.parents):
        if (folder / "config.yaml").is_file() and (folder / "run.json").is_file():
            return folder
    return None


def foreign_adapters(folder: Path) -> UserError:
    """For adapters that another program trained: what they were put on is not said in our way."""
    try:
        base = json.loads((folder / ADAPTERS).read_text())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, OSError):
        base = "its base"
    return UserError(
        f"{folder}: adapters that another program put on {base}; merge them into it (PEFT's merge_and_unload, then "
        "save_pretrained with the tokenizer) and give that folder"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' tables and bars off the screen while we load: we say in one line what is wrong."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
