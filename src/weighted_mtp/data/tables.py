"""A split on disk: two Parquet files, `<root>/<dataset>/<split>/{problems,solutions}.parquet`.

Solutions are many and long, problems are few, and listing a split reads only the first. What is written is bounded in
memory, and so is what is read of a few rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from weighted_mtp.data.preparation.registry import NAMES
from weighted_mtp.data.schema import PROBLEM_SCHEMA, SMALL, SOLUTION_SCHEMA, Counts, Problem, Solution, Span, TestCase
from weighted_mtp.errors import UserError, first_line

Rows = Sequence[int] | NDArray[np.int64]
"""Numbers of rows of a file."""

PROBLEMS_FILE, SOLUTIONS_FILE = "problems.parquet", "solutions.parquet"
COMPRESSION = "zstd"
_ROW_GROUP = 2_000  # rows that wait in memory while writing …
_ROW_GROUP_CHARACTERS = 16_000_000  # … or fewer: CodeContests rows carry hundreds of tests


class SplitWriter:
    """Writes a split's two files problem by problem, in bounded memory; a context manager.

    `folder` is made; atomicity is the caller's concern. Raises OSError if it cannot be written.
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
    name = dataset.removesuffix(SMALL)
    if name not in NAMES:
        return f"uv run wmtp data --import FILE --name {name}` or `uv run wmtp label EVALUATION… --name {name}"
    steps = steps or ("process,small" if dataset.endswith(SMALL) else "")
    return f"uv run wmtp data --datasets {name}" + (f" --steps {steps}" if steps else "")


def write_tables(folder: Path, problems: Iterable[Problem], solutions: Iterable[Solution]) -> Counts:
    """Write a split's two files for a caller that makes them atomic; returns what they hold. Raises OSError."""
    with SplitWriter(folder) as writer:
        for problem in problems:
            writer.add(problem, ())
        for solution in solutions:
            writer.add_solution(solution)
    return writer.counts


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


def untested(directory: Path) -> list[str]:
    """Ids of a split's problems that have no test. Raises UserError as `read_problems`."""
    with opened_table(directory / PROBLEMS_FILE, PROBLEM_SCHEMA) as file:
        table = file.read(columns=["problem_id", "tests.list.element.kind"])
    numbers = pc.list_value_length(table["tests"]).to_pylist()
    return [name for name, number in zip(table["problem_id"].to_pylist(), numbers, strict=True) if number == 0]


def _read_statements(file: pq.ParquetFile, group: int) -> list[dict[str, Any]]:
    kinds = file.read_row_group(group, columns=["tests.list.element.kind"])["tests"]
    may_show = "code" in pc.unique(pc.struct_field(pc.list_flatten(kinds), "kind")).to_pylist()
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
        reason = first_line(error)
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
        file.read_row_group(int(group), columns=columns).take(_numbers(rows[order][home == group] - starts[group]))
        for group in np.unique(home)
    ]
    found = pa.concat_tables(parts) if parts else file.schema_arrow.empty_table().select(columns)
    return found.take(_numbers(np.argsort(order, kind="stable")))


def _numbers(rows: NDArray[np.int64]) -> pa.Array:
    """What `pa.array` makes of rows, for which it would import pandas."""
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows, np.int64))])
