"""The micro benchmark on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from weighted_mtp.data.schema import Records, cannot_write, write_tables
from weighted_mtp.data.sources.micro.generator import SPLITS, MicroConfig, generate
from weighted_mtp.data.sources.micro.tokenizer import train_tokenizer
from weighted_mtp.errors import UserError
from weighted_mtp.files import whole_directory

_VERSION = 1  # of the generator: raise it with any change that changes what a seed gives
_MANIFEST = "manifest.json"


def write_micro(root: Path, config: MicroConfig, on_progress: Callable[[int], None] | None = None) -> Path:
    """Generate `root/micro/`, its splits, `tokenizer/` and `manifest.json`; returns that folder.

    Nothing is done where the same configuration is there already, all of it; otherwise the folder is replaced as a
    whole, so that an interrupted run leaves the earlier one or none.

    Raises UserError if the folder cannot be written.
    """
    directory = root / "micro"
    manifest = {"version": _VERSION, "config": config.model_dump()}
    if _is_current(directory, manifest):
        return directory
    splits = generate(config, on_progress)
    problems, solutions = splits["train"]
    texts = (*(problem.description for problem in problems), *(solution.code for solution in solutions))
    tokenizer = train_tokenizer(texts, config.vocab_size)
    try:
        with whole_directory(directory) as partial:
            for split, records in splits.items():
                (partial / split).mkdir()
                write_tables(partial / split, *records)
            _save(tokenizer, partial / "tokenizer")
            (partial / _MANIFEST).write_text(json.dumps({**manifest, "counts": _counts(splits)}, indent=2) + "\n")
    except OSError as error:
        raise cannot_write(directory, error) from error
    return directory


def _save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from error  # how the tokenizers library words a full disk


def _is_current(directory: Path, wanted: dict[str, Any]) -> bool:
    if not all((directory / part).is_dir() for part in (*SPLITS, "tokenizer")):
        return False
    try:
        found = json.loads((directory / _MANIFEST).read_text())
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise UserError(f"{directory / _MANIFEST} is damaged: delete it to generate the data again") from error
    return all(found.get(key) == value for key, value in wanted.items())


def _counts(splits: dict[str, Records]) -> dict[str, dict[str, int]]:
    return {
        split: {
            "problems": len(problems),
            "correct": sum(solution.is_correct for solution in solutions),
            "incorrect": sum(not solution.is_correct for solution in solutions),
        }
        for split, (problems, solutions) in splits.items()
    }
