"""Records of every dataset: problems with tests, and correct or incorrect solutions of them.

One schema for all sources, so that the code that trains on the micro benchmark trains on CodeContests.
On disk a split is two Parquet files, `<root>/<dataset>/<split>/{problems,solutions}.parquet`: solutions are
many and long, problems are few, and listing a split reads only the first.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from weighted_mtp.errors import UserError
from weighted_mtp.files import whole_directory

TestKind = Literal["call", "code", "stdio", "answer"]
Visibility = Literal["public", "private", "generated"]
Suite = Literal["base", "plus"]


@dataclass(frozen=True)
class TestCase:
    """One test of a program.

    kind       input                                          output
    `call`     Python literal of the argument tuple           Python literal of the expected return value
    `code`     code run before (imports, set-up; may be "")    test code (asserts) that uses the program's names
    `stdio`    text on standard input                         expected text on standard output
    `answer`   ""                                             the number that a worked answer must end with; not run

    suite   "plus" of tests that EvalPlus adds to a benchmark: what passes the others alone has passed the benchmark
    atol    of `call`: how far a number may be off beside 1e-7 of the expected one; 0 for Python's `==`
    """

    __test__: ClassVar[bool] = False  # pytest would take the name for a class of tests

    kind: TestKind
    input: str
    output: str
    visibility: Visibility = "private"
    suite: Suite = "base"
    atol: float = 0.0

    @property
    def is_shown(self) -> bool:
        """Whether a prompt may show it: MBPP's asserts say what a function is to be called."""
        return self.kind == "code" and self.visibility == "public"


@dataclass(frozen=True)
class Problem:
    """A task: what is asked, and the tests that decide."""

    problem_id: str  # unique over all datasets: "micro/…", "HumanEval/0", "mbpp/11", "codecontests/codeforces/…"
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
    language: str = "python3"  # python2 | python3 | cpp | java; "text" for a worked answer
    origin: str = "human"  # human | synthetic | model, or the source's own word ("mutant:compare")
    spans: tuple[Span, ...] = field(default=())  # ground truth, where it is known


Records = tuple[list[Problem], list[Solution]]
Counts = dict[str, int]
"""`{"problems": …, "correct": …, "incorrect": …}` of a split."""


@dataclass(frozen=True)
class Entry:
    """A problem with its solutions, as a reader makes them of one row of upstream's file.

    where     file and line, for messages
    dropped   which solutions of the row were left out: reason → how many
    left_out  why the problem as a whole is to be left out; "" where it is not
    """

    problem: Problem
    solutions: list[Solution]
    where: str
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: str = ""


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
                pa.struct(
                    [
                        *((name, pa.string()) for name in ("kind", "input", "output", "visibility", "suite")),
                        ("atol", pa.float64()),
                    ]
                ),
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

Rows = Sequence[int] | NDArray[np.int64]
"""Numbers of rows of a file."""

PROBLEMS_FILE, SOLUTIONS_FILE = "problems.parquet", "solutions.parquet"
SMALL = "-small"
"""Ends the name of a dataset's slice for local runs."""
COMPRESSION = "zstd"
_ROW_GROUP = 2_000  # rows that wait in memory while writing …
_ROW_GROUP_CHARACTERS = 16_000_000  # … or fewer: CodeContests rows carry hundreds of tests


class SplitWriter:
    """Writes a split's two files problem by problem, in bounded memory; a context manager.

    `folder` is made; its wholeness is the caller's concern. Raises OSError where it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.counts: Counts = {"problems": 0, "correct": 0, "incorrect": 0}
        with ExitStack() as stack:
            self._problems = stack.enter_context(_TableWriter(folder / PROBLEMS_FILE, PROBLEM_SCHEMA))
            self._solutions = stack.enter_context(_TableWriter(folder / SOLUTIONS_FILE, SOLUTION_SCHEMA))
            self._open = stack.pop_all()

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.__exit__(kind, error, trace)

    def add(self, problem: Problem, solutions: Iterable[Solution]) -> None:
        """Append a problem and its solutions."""
        tests = [vars(test) for test in problem.tests]
        size = len(problem.description) + sum(len(test.input) + len(test.output) for test in problem.tests)
        self._problems.add({**vars(problem), "tests": tests}, size)
        self.counts["problems"] += 1
        for solution in solutions:
            self.add_solution(solution)

    def add_solution(self, solution: Solution) -> None:
        """Append a solution of the problem that was added last."""
        self._solutions.add({**vars(solution), "spans": [vars(span) for span in solution.spans]}, len(solution.code))
        self.counts["correct" if solution.is_correct else "incorrect"] += 1


class _TableWriter:
    """Rows → row groups of bounded text."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression=COMPRESSION)
        self._rows: list[dict[str, Any]] = []
        self._characters = 0

    def __enter__(self) -> "_TableWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._writer:
            if error is None:
                self._flush()

    def add(self, row: dict[str, Any], characters: int) -> None:
        self._rows.append(row)
        self._characters += characters
        if len(self._rows) >= _ROW_GROUP or self._characters >= _ROW_GROUP_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._characters = [], 0


def prepare_command(dataset: str, steps: str = "") -> str:
    """What a user runs to have a dataset (its slice, its policy's programs), or what certain `steps` make of it."""
    from weighted_mtp.data.registry import NAMES  # which imports this file

    name = dataset.removesuffix(SMALL)
    if name not in NAMES:
        return f"uv run wmtp label EVALUATION… --name {dataset}"
    steps = steps or ("process,small" if dataset.endswith(SMALL) else "")
    return f"uv run wmtp data --datasets {name}" + (f" --steps {steps}" if steps else "")


def records(entries: Iterable[Entry]) -> Records:
    """All problems and all solutions of a reader's entries, for a dataset that fits in memory."""
    problems: list[Problem] = []
    solutions: list[Solution] = []
    for entry in entries:
        if not entry.left_out:
            problems.append(entry.problem)
            solutions += entry.solutions
    return problems, solutions


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


def write_tables(folder: Path, problems: Iterable[Problem], solutions: Iterable[Solution]) -> Counts:
    """Write a split's two files for a caller that sees to their wholeness; returns what they hold. Raises OSError."""
    with SplitWriter(folder) as writer:
        for problem in problems:
            writer.add(problem, ())
        for solution in solutions:
            writer.add_solution(solution)
    return writer.counts


def cannot_write(directory: Path, error: OSError) -> UserError:
    """One line for a place that cannot be written."""
    reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]  # Arrow words it at length
    return UserError(f"cannot write {directory}: {reason}; make room or give a folder that can be written")


def read_problems(directory: Path, rows: Rows | None = None) -> list[Problem]:
    """Problems of a split: all of them, or those at `rows` of the file, in that order.

    Raises UserError if the file is missing, damaged, without a column, or empty.
    """
    found = [_problem(row) for row in _read_rows(directory / PROBLEMS_FILE, PROBLEM_SCHEMA, rows)]
    return found if rows is not None else _some(found, directory)


def stream_problems(directory: Path, rows: Rows) -> Iterator[Problem]:
    """Problems at `rows` of the file, which rise, with all their tests; one row group is in memory at a time.

    Raises UserError as `read_problems`.
    """
    for part in _by_row_group(directory / PROBLEMS_FILE, PROBLEM_SCHEMA, rows):
        yield from read_problems(directory, part)


def stream_solutions(directory: Path, rows: Rows) -> Iterator[Solution]:
    """Solutions at `rows` of the file, which rise; one row group is in memory at a time.

    Raises UserError as `read_solutions`.
    """
    for part in _by_row_group(directory / SOLUTIONS_FILE, SOLUTION_SCHEMA, rows):
        yield from read_solutions(directory, part)


def _by_row_group(path: Path, schema: pa.Schema, rows: Rows) -> list[NDArray[np.int64]]:
    """Rising rows, in parts that are each of one row group; no part is empty."""
    wanted = np.asarray(rows, dtype=np.int64)
    with opened_table(path, schema) as file:
        ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
    return [part for part in np.split(wanted, np.searchsorted(wanted, ends[:-1])) if len(part)]


def read_statements(directory: Path) -> list[Problem]:
    """All problems of a split with no other tests than those that prompts show.

    CodeContests' tests are gigabytes, none of which is shown: of a row group without tests of such a kind no test is
    read but its kind.

    Raises UserError as `read_problems`.
    """
    with opened_table(directory / PROBLEMS_FILE, PROBLEM_SCHEMA) as file:
        rows = [row for group in range(file.num_row_groups) for row in _read_statements(file, group)]
    found = [_problem(row) for row in rows]
    return _some([replace(p, tests=tuple(test for test in p.tests if test.is_shown)) for p in found], directory)


def _read_statements(file: pq.ParquetFile, group: int) -> list[dict[str, Any]]:
    kinds = file.read_row_group(group, columns=["tests.list.element.kind"])["tests"]
    may_show = pc.any(pc.equal(pc.struct_field(pc.list_flatten(kinds), "kind"), "code")).as_py()
    columns = [name for name in PROBLEM_SCHEMA.names if may_show or name != "tests"]
    return file.read_row_group(group, columns=columns).to_pylist()


def _problem(row: dict[str, Any]) -> Problem:
    return Problem(**{**row, "tests": tuple(map(_test, row.get("tests", ())))})


def _test(values: dict[str, Any]) -> TestCase:
    """A column that was not known when the file was written is null, and has its default."""
    return TestCase(**{name: value for name, value in values.items() if value is not None})


def _some(problems: list[Problem], directory: Path) -> list[Problem]:
    if not problems:
        remedy = prepare_command(directory.parent.name)
        raise UserError(f"{directory / PROBLEMS_FILE} holds no problem: delete it and make it with `{remedy}`")
    return problems


def read_solutions(directory: Path, rows: Rows | None = None) -> list[Solution]:
    """Solutions of a split: all of them, maybe none; or those at `rows` of the file, in that order.

    Only the row groups that hold `rows` are read, one at a time, so that a choice out of millions needs little memory.

    Raises UserError if the file is missing, damaged or without a column.
    """
    found = _read_rows(directory / SOLUTIONS_FILE, SOLUTION_SCHEMA, rows)
    return [Solution(**{**row, "spans": tuple(Span(**span) for span in row["spans"])}) for row in found]


def read_verdicts(directory: Path, *more: str) -> Iterator[tuple[Any, ...]]:
    """(problem_id, is_correct) of every solution of a split, in order, and `more` of its columns, but for `code`.

    No program is read, so that millions need no memory.

    Raises UserError as `read_solutions`.
    """
    columns = ["problem_id", "is_correct", *more]
    with opened_table(directory / SOLUTIONS_FILE, SOLUTION_SCHEMA) as file:
        for batch in file.iter_batches(columns=columns):
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


@contextmanager
def opened_table(path: Path, schema: pa.Schema, remedy: str = "") -> Iterator[pq.ParquetFile]:
    """A split's file, with all columns of `schema`; `remedy` is the command that makes it, if not that of the dataset.

    Raises UserError, one line with the remedy, for whatever is wrong with it, now or while it is read.
    """
    remedy = remedy or prepare_command(path.parent.parent.name)
    if not path.is_file():
        raise UserError(f"{path} does not exist: make it with `{remedy}`")
    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            missing = [name for name in schema.names if name not in present]
            if missing:
                raise UserError(
                    f"{path} has no column {missing[0]!r}, its columns are {', '.join(present)}: delete it and make it "
                    f"again with `{remedy}`"
                )
            yield file
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is truncated, damaged or of another kind ({reason}): delete it and make it again with `{remedy}`"
        ) from error


def _read_rows(path: Path, schema: pa.Schema, rows: Rows | None = None) -> list[dict[str, Any]]:
    with opened_table(path, schema) as file:
        table = file.read(columns=schema.names) if rows is None else _take(file, schema.names, np.asarray(rows))
        return table.select(schema.names).cast(schema).to_pylist()


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
