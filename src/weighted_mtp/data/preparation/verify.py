"""Checks of a prepared dataset: its files, its schema, its counts, and that no problem is in two splits."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from weighted_mtp.data.index import INDEX_FILE, read_index
from weighted_mtp.data.preparation.registry import TRAIN
from weighted_mtp.data.prepared import require_manifest
from weighted_mtp.data.schema import PROBLEM_SCHEMA, SOLUTION_SCHEMA
from weighted_mtp.data.tables import PROBLEMS_FILE, SOLUTIONS_FILE
from weighted_mtp.errors import UserError
from weighted_mtp.files import check_files


class _Splits:
    """What has been seen of the splits so far: which problem is where, and how its statement reads."""

    def __init__(self) -> None:
        self.home: dict[str, str] = {}
        self.statements: dict[bytes, tuple[str, str]] = {}

    def add(self, folder: Path) -> dict[str, int]:
        """Counts of one more split. Raises UserError if one of its problems is in another, or a solution in none."""
        counts: Counter[str] = Counter(problems=0, correct=0, incorrect=0)
        for row in _rows(folder / PROBLEMS_FILE, PROBLEM_SCHEMA, ["problem_id", "description", "starter"]):
            counts["problems"] += 1
            self._add_problem(folder, **row)
        for row in _rows(folder / SOLUTIONS_FILE, SOLUTION_SCHEMA, ["solution_id", "problem_id", "is_correct"]):
            counts["correct" if row["is_correct"] else "incorrect"] += 1
            if self.home.get(row["problem_id"]) != folder.name:
                raise UserError(f"{folder}: solution {row['solution_id']!r} is of {row['problem_id']!r}, not in it")
        return dict(counts)

    def _add_problem(self, folder: Path, problem_id: str, description: str, starter: str) -> None:
        home = self.home.setdefault(problem_id, folder.name)
        if home != folder.name:
            raise UserError(f"{folder}: problem {problem_id!r} is in split {home}, too")
        words = " ".join(f"{description}\n{starter}".split())
        split, twin = self.statements.setdefault(hashlib.sha256(words.encode()).digest(), (folder.name, problem_id))
        if split != folder.name and TRAIN in (split, folder.name):
            raise UserError(f"{folder}: problem {problem_id!r} has the statement of {twin!r} in split {split}")


def check_dataset(folder: Path) -> str:
    """Check a dataset folder against its manifest and against itself; returns what it holds, in a line.

    Raises UserError for the first thing that is wrong.
    """
    manifest = require_manifest(folder)
    check_files(folder, manifest["files"])
    seen, total = _Splits(), Counter[str]()
    for split, expected in manifest["splits"].items():
        found = seen.add(folder / split)
        if found != expected:
            raise UserError(f"{folder / split}: holds {found}, its manifest says {expected}")
        if (folder / split / INDEX_FILE).exists():
            read_index(folder / split)
        total.update(found)
    return f"{', '.join(manifest['splits'])}: " + ", ".join(f"{n:,} {what}" for what, n in total.items())


def _rows(file: Path, schema: pa.Schema, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Some columns of a table, batch by batch: CodeContests' tests by themselves would fill the memory."""
    with pq.ParquetFile(file) as table:
        if not table.schema_arrow.equals(schema):
            different = next((f.name for f in schema if f not in table.schema_arrow), "a column too many")
            raise UserError(f"{file}: another schema than this version writes ({different})")
        for batch in table.iter_batches(columns=columns):
            yield from batch.to_pylist()
