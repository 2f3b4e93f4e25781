"""The micro benchmark on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weighted_mtp.data.index import write_index
from weighted_mtp.data.prepared import has_splits
from weighted_mtp.data.sources.micro.generator import MicroConfig, generate_micro
from weighted_mtp.data.sources.micro.tokenizer import train_tokenizer
from weighted_mtp.data.tables import write_tables
from weighted_mtp.files import atomic_directory, writing_to
from weighted_mtp.manifest import files_present, made_from, read_manifest, write_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_VERSION = 1  # of the generator: raise it with any change that changes what a seed gives


def write_micro(root: Path, config: MicroConfig, on_progress: Callable[[int], None] | None = None) -> Path:
    """Generate `root/micro/`, its splits, `tokenizer/` and `manifest.json`; returns that folder.

    Nothing is done if the same configuration is there already, complete; otherwise the folder is replaced as a
    whole, so that an interrupted run leaves the earlier one or none. No problem is compared with evaluation sets: the
    splits are apart by construction, and nobody else's problems are of this language.

    Raises UserError if the folder cannot be written.
    """
    directory = root / "micro"
    if is_current(directory, config):
        return directory
    splits = generate_micro(config, on_progress)
    problems, solutions = splits["train"]
    texts = (*(problem.description for problem in problems), *(solution.code for solution in solutions))
    tokenizer = train_tokenizer(texts, config.vocab_size)
    with writing_to(directory), atomic_directory(directory) as partial:
        counts = {split: write_tables(partial / split, *records) for split, records in splits.items()}
        _save(tokenizer, partial / "tokenizer")
        for split in splits:
            write_index(partial / split)
        rows = sum(n["problems"] for n in counts.values())
        made = {
            "source": "generated",
            "rows_in": rows,
            "dropped": {},
            "splits": counts,
            "index": {"tokenizer": None},
        }
        write_manifest(partial, {**_identity(config), **made})
    return directory


def _save(tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from error  # how the tokenizers library words a full disk


def is_current(directory: Path, config: MicroConfig) -> bool:
    """Whether all of the benchmark with this configuration is there. Raises UserError for a damaged manifest."""
    found = read_manifest(directory) or {}
    tokenizer = [name for name in found.get("files", ()) if name.startswith("tokenizer/")]
    whole = has_splits(directory, found) and files_present(directory, found, tokenizer)
    return whole and made_from(found, _identity(config))


def _identity(config: MicroConfig) -> dict[str, Any]:
    return {"dataset": "micro", "version": _VERSION, "options": config.model_dump()}
