"""The micro benchmark on disk."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weighted_mtp.data.schema import Records, write_split
from weighted_mtp.data.sources.micro.generator import SPLITS, MicroConfig, generate
from weighted_mtp.data.sources.micro.tokenizer import train_tokenizer
from weighted_mtp.errors import UserError

_VERSION = 1  # of the generator: raise it with any change that changes what a seed gives


def write_micro(root: Path, config: MicroConfig, on_progress: Callable[[int], None] | None = None) -> Path:
    """Generate `root/micro/`, its splits, `tokenizer/` and `manifest.json`; returns that folder.

    Nothing is done where the same configuration is there already, all of it. The manifest goes first and
    comes last, so what an interrupted run left is never taken for whole.

    Raises UserError if the folder cannot be written.
    """
    directory = root / "micro"
    manifest = directory / "manifest.json"
    wanted = {"version": _VERSION, "config": config.model_dump()}
    if _is_current(manifest, wanted) and all((directory / part).is_dir() for part in (*SPLITS, "tokenizer")):
        return directory
    splits = generate(config, on_progress)
    problems, solutions = splits["train"]
    texts = (*(problem.description for problem in problems), *(solution.code for solution in solutions))
    tokenizer = train_tokenizer(texts, config.vocab_size)
    try:
        manifest.unlink(missing_ok=True)
        for split, records in splits.items():
            write_split(directory / split, *records)
        shutil.rmtree(directory / "tokenizer", ignore_errors=True)
        tokenizer.save_pretrained(directory / "tokenizer")
        partial = manifest.with_suffix(".partial")
        partial.write_text(json.dumps({**wanted, "counts": _counts(splits)}, indent=2) + "\n")
        partial.rename(manifest)
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error.strerror or error}; make room or choose another") from error
    return directory


def _is_current(manifest: Path, wanted: dict[str, Any]) -> bool:
    try:
        found = json.loads(manifest.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except ValueError as error:
        raise UserError(f"{manifest} is damaged: delete it to generate the data again") from error
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
