"""`<dataset>-small`: a slice of a prepared dataset that keeps its shape, for local runs and tests."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weighted_mtp.data.index import write_index
from weighted_mtp.data.preparation.config import SliceOptions
from weighted_mtp.data.prepared import require_manifest, split_checksums
from weighted_mtp.data.schema import PROBLEM_SCHEMA, SMALL, Counts
from weighted_mtp.data.tables import (
    PROBLEMS_FILE,
    opened_table,
    prepare_command,
    read_problems,
    read_solutions,
    read_verdicts,
    write_tables,
)
from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_directory, writing_to
from weighted_mtp.manifest import Manifest, files_present, made_from, read_manifest, write_manifest

_VERSION = 1  # of this code: raise it with any change that changes what a seed gives


def write_slice(folder: Path, options: SliceOptions, tokenizer: str | None = None) -> tuple[Manifest, bool]:
    """Write the slice of a prepared dataset beside it; returns its manifest, and whether anything had to be done.

    Of every split, at most `max_problems` problems: each difficulty keeps its share (largest remainders), and within
    one the seed decides. Order and ids are the dataset's. The index comes with it, in `tokenizer`'s tokens.

    Raises UserError if the dataset is not prepared as a whole, or the place cannot be written.
    """
    whole, target = require_manifest(folder), folder.with_name(folder.name + SMALL)
    if whole.get("only_evaluation"):
        command = prepare_command(folder.name)
        raise UserError(f"{folder} holds its evaluation splits only: run `{command} --steps process,small`")
    wanted = {
        "dataset": target.name,
        "version": _VERSION,
        "options": options.model_dump(mode="json"),
        "tokenizer": tokenizer,
        "source": {split: split_checksums(whole, split) for split in whole["splits"]},
    }
    there = read_manifest(target) or {}
    if made_from(there, wanted) and files_present(target, there, there["files"]):
        return there, False
    with writing_to(target), atomic_directory(target) as partial:
        counts = {split: _copy(folder / split, partial / split, options) for split in whole["splits"]}
        for split in counts:
            write_index(partial / split, tokenizer)
        return write_manifest(partial, {**wanted, "splits": counts}), True


def _copy(split: Path, target: Path, options: SliceOptions) -> Counts:
    with opened_table(split / PROBLEMS_FILE, PROBLEM_SCHEMA) as file:
        difficulty = file.read(columns=["difficulty"])["difficulty"].to_numpy()
    generator = np.random.default_rng([options.seed, *split.name.encode()])
    problems = read_problems(split, choose_problems(difficulty, options.max_problems, generator).tolist())
    rows: dict[tuple[str, bool], list[int]] = {(p.problem_id, label): [] for p in problems for label in (True, False)}
    for row, verdict in enumerate(read_verdicts(split)):
        if verdict in rows:
            rows[verdict].append(row)
    chosen = sorted(row for group in rows.values() for row in _draw(group, options.max_solutions, generator))
    return write_tables(target, problems, read_solutions(split, chosen))


def choose_problems(difficulty: NDArray[np.int32], most: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(n,) rows of at most `most` of (P,) problems, in order, each difficulty with its share of them."""
    if len(difficulty) <= most:
        return np.arange(len(difficulty))
    levels, level, size = np.unique(difficulty, return_inverse=True, return_counts=True)
    exact = size * most / len(difficulty)
    quota = exact.astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: most - quota.sum()]] += 1
    drawn = [generator.permutation(np.flatnonzero(level == i))[: quota[i]] for i in range(len(levels))]
    return np.sort(np.concatenate(drawn))


def _draw(rows: list[int], most: int, generator: np.random.Generator) -> list[int]:
    return rows if len(rows) <= most else generator.choice(rows, most, replace=False).tolist()
