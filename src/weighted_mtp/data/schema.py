"""Records of every dataset: problems with tests, and correct or incorrect solutions of them.

One schema for all sources, so that the code that trains on the micro benchmark trains on CodeContests.
On disk a split is two Parquet files, `<root>/<dataset>/<split>/{problems,solutions}.parquet`: solutions are
many and long, problems are few, and listing a split reads only the first.
"""

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from weighted_mtp.errors import UserError
from weighted_mtp.files import whole_directory

TestKind = Literal["call", "code", "stdio"]
Visibility = Literal["public", "private", "generated"]


@dataclass(frozen=True)
class TestCase:
    """One test of a program.

    kind       input                                          output
    `call`     Python literal of the argument tuple           Python literal of the expected return value
    `code`     code run before (imports, set-up; may be "")    test code (asserts) that uses the program's names
    `stdio`    text on standard input                         expected text on standard output
    """

    __test__: ClassVar[bool] = False  # pytest would take the name for a class of tests

    kind: TestKind
    input: str
    output: str
    visibility: Visibility = "private"


@dataclass(frozen=True)
class Problem:
    """A task: what is asked, and the tests that decide."""

    problem_id: str  # unique over all datasets: "micro/…", "HumanEval/0", "mbpp/11"
    source: str
    split: str
    description: str  # the task in natural language
    starter: str = ""  # code that a solution continues (HumanEval's prompt); "" where it is written from nothing
    entry_point: str = ""  # function that `call` tests call; "" for stdio
    difficulty: int = -1  # the source's own scale; -1 where unknown
    rating: int | None = None  # Codeforces rating
    tests: tuple[TestCase, ...] = ()
    time_limit: float | None = None  # seconds a test
    memory_limit: int | None = None  # bytes


SpanKind = Literal["semantic", "wrong"]


@dataclass(frozen=True)
class Span:
    """Characters `code[start:end]` that decide (`semantic`), or the ones that make it wrong (`wrong`)."""

    kind: SpanKind
    start: int
    end: int


@dataclass(frozen=True)
class Solution:
    """A program for a problem, with its verdict."""

    solution_id: str
    problem_id: str
    code: str
    is_correct: bool
    language: str = "python3"
    origin: str = "human"  # human | synthetic | model
    spans: tuple[Span, ...] = field(default=())  # ground truth, where it is known


Records = tuple[list[Problem], list[Solution]]

PROBLEM_SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
        pa.field("starter", pa.string(), nullable=False),
        pa.field("entry_point", pa.string(), nullable=False),
        pa.field("difficulty", pa.int32(), nullable=False),
        pa.field("rating", pa.int32()),
        pa.field(
            "tests",
            pa.list_(
                pa.struct([(name, pa.string()) for name in ("kind", "input", "output", "visibility")]),
            ),
            nullable=False,
        ),
        pa.field("time_limit", pa.float64()),
        pa.field("memory_limit", pa.int64()),
    ]
)

SOLUTION_SCHEMA = pa.schema(
    [
        pa.field("solution_id", pa.string(), nullable=False),
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("is_correct", pa.bool_(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field(
            "spans",
            pa.list_(pa.struct([("kind", pa.string()), ("start", pa.int32()), ("end", pa.int32())])),
            nullable=False,
        ),
    ]
)

PROBLEMS_FILE, SOLUTIONS_FILE = "problems.parquet", "solutions.parquet"
PREPARE_COMMAND = "uv run wmtp data {dataset}"
_ROW_GROUP = 2_000  # rows in memory while writing: CodeContests rows carry hundreds of tests


def by_split(problems: Iterable[Problem], solutions: Iterable[Solution]) -> dict[str, Records]:
    """Group records by their problem's split, in order of first appearance."""
    splits: dict[str, Records] = {}
    home: dict[str, list[Solution]] = {}
    for problem in problems:
        records = splits.setdefault(problem.split, ([], []))
        records[0].append(problem)
        home[problem.problem_id] = records[1]
    for solution in solutions:
        home[solution.problem_id].append(solution)
    return splits


def write_split(directory: Path, problems: Iterable[Problem], solutions: Iterable[Solution]) -> None:
    """Write one split's two files; an earlier version is replaced as a whole.

    A full disk, a kill or an exception leaves the earlier version (or nothing), never half a split.

    Raises UserError when the place cannot be written (full disk, no permission, a file in the way).
    """
    try:
        with whole_directory(directory) as partial:
            write_tables(partial, problems, solutions)
    except OSError as error:
        raise cannot_write(directory, error) from error


def write_tables(folder: Path, problems: Iterable[Problem], solutions: Iterable[Solution]) -> None:
    """Write a split's two files into an existing folder, for a caller that sees to their wholeness. Raises OSError."""
    _write_table(folder / PROBLEMS_FILE, PROBLEM_SCHEMA, problems)
    _write_table(folder / SOLUTIONS_FILE, SOLUTION_SCHEMA, solutions)


def cannot_write(directory: Path, error: OSError) -> UserError:
    """One line for a place that cannot be written."""
    reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]  # Arrow words it at length
    return UserError(f"cannot write {directory}: {reason}; make room or give a folder that can be written")


def read_problems(directory: Path) -> list[Problem]:
    """All problems of a split. Raises UserError if the file is missing, damaged, without a column, or empty."""
    rows = _read_rows(directory / PROBLEMS_FILE, PROBLEM_SCHEMA)
    if not rows:
        raise UserError(
            f"{directory / PROBLEMS_FILE} holds no problem: delete it and make it with `{_remedy(directory)}`"
        )
    return [Problem(**{**row, "tests": tuple(TestCase(**test) for test in row["tests"])}) for row in rows]


def read_solutions(directory: Path, rows: Sequence[int] | None = None) -> list[Solution]:
    """Solutions of a split: all of them, maybe none; or those at `rows` of the file, in that order.

    Only the row groups that hold `rows` are read, one at a time, so that a choice out of millions needs little memory.

    Raises UserError if the file is missing, damaged or without a column.
    """
    found = _read_rows(directory / SOLUTIONS_FILE, SOLUTION_SCHEMA, rows)
    return [Solution(**{**row, "spans": tuple(Span(**span) for span in row["spans"])}) for row in found]


def _write_table(path: Path, schema: pa.Schema, records: Iterable[Problem | Solution]) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        iterator = iter(records)
        while rows := [asdict(record) for record in itertools.islice(iterator, _ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _read_rows(path: Path, schema: pa.Schema, rows: Sequence[int] | None = None) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: make it with `{_remedy(path.parent)}`")
    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            missing = [name for name in schema.names if name not in present]
            if missing:
                raise UserError(f"{path} has no column {missing[0]!r}: its columns are {', '.join(present)}")
            table = file.read(columns=schema.names) if rows is None else _take(file, schema.names, np.asarray(rows))
            return table.select(schema.names).cast(schema).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is truncated, damaged or of another kind ({reason}): "
            f"delete it and make it again with `{_remedy(path.parent)}`"
        ) from error


def _take(file: pq.ParquetFile, columns: list[str], rows: NDArray[np.int64]) -> pa.Table:
    """The given rows in the given order, from the row groups that hold them."""
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    starts = np.cumsum([0, *groups])
    order = np.argsort(rows, kind="stable")
    home = np.searchsorted(starts, rows[order], side="right") - 1
    parts = [
        file.read_row_group(int(group), columns=columns).take(pa.array(rows[order][home == group] - starts[group]))
        for group in np.unique(home)
    ]
    found = pa.concat_tables(parts) if parts else file.schema_arrow.empty_table().select(columns)
    return found.take(pa.array(np.argsort(order, kind="stable")))


def _remedy(directory: Path) -> str:
    return PREPARE_COMMAND.format(dataset=directory.parent.name)
