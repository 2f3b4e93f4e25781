"""The one reader of upstream's files, with an error message for each way in which they break.

JSON lines (plain or gzipped), a JSON array, Parquet: told apart by how a file begins, whatever its name. Lines and
row batches are read one after another, so that memory is bounded by the longest; only a JSON array is read whole.
"""

import gzip
import io
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from weighted_mtp.errors import UserError, first_line

Columns = Mapping[str, type | UnionType]
"""Column → type of its values: `str`, `int`, `float`, `list`, `dict`, one of these or another, or `| None`, which may
also be absent."""

OnBytes = Callable[[int], None]
Answers = Callable[[str, str, Sequence[str]], list[Any]]
"""(program, its function, literals of argument tuples) → what that function returns to each; where programs may run."""
TOO_LONG = object()
"""Among answers: a value of over a million bytes, which is of no use in a test."""

_BATCH = 16  # Parquet rows in memory: CodeContests has rows of 10 MB
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_MEND = "fix it, so that every line is one whole JSON object, or fetch the file again"


@dataclass(frozen=True)
class Reading:
    """What a reader of a dataset's file is given besides the file.

    dataset                  its name, which begins the ids of its problems
    split                    the split that all of the file belongs to; None if a row says, or its hash
    languages                of the solutions to keep
    max_solution_characters  longer solutions are dropped
    on_bytes, group          as `read_rows`
    answers                  runs a dataset's reference; None if nothing may be executed
    """

    dataset: str = ""
    split: str | None = None
    languages: tuple[str, ...] = ("python3",)
    max_solution_characters: int = 100_000
    on_bytes: OnBytes | None = None
    group: int | None = None
    answers: Answers | None = None


DEFAULT = Reading()


@dataclass(frozen=True)
class SourceRow:
    """One object of a file, the line or row it stands on (1-based), and the words for that place."""

    line: int
    values: dict[str, Any]
    where: str

    def __getitem__(self, column: str) -> Any:
        return self.values.get(column)


def row_groups(path: Path) -> list[int | None]:
    """What `read_rows` takes as `group` to read a file in parts: of Parquet its row groups, else only the whole.

    Raises UserError as `read_rows`.
    """
    with _readable(path), path.open("rb") as file:
        if file.read(4) != _PARQUET:
            return [None]
        with pq.ParquetFile(path) as table:
            return list(range(table.num_row_groups)) or [None]


def columns_of(path: Path) -> list[str]:
    """The columns of a Parquet file, also those that nobody reads; none of another file, whose rows say it themselves.

    Raises UserError as `read_rows`.
    """
    with _readable(path), path.open("rb") as file:
        return pq.read_schema(path).names if file.read(4) == _PARQUET else []


def read_rows(
    path: Path, columns: Columns, on_bytes: OnBytes | None = None, group: int | None = None
) -> Iterator[SourceRow]:
    """Rows of a file one by one, each with at least `columns` of the given types.

    on_bytes  is called with the bytes of the file that were read since the last call
    group     of a Parquet file the one row group to read; None for all

    Blank lines are skipped. Raises UserError naming file, line (of Parquet: row) and remedy: missing or unreadable
    file, truncated or damaged gzip or Parquet, not UTF-8, broken JSON, not an object, missing column, wrong type, no
    rows.
    """
    row = None
    with _readable(path), path.open("rb") as file:
        for row in _parts(path, file, columns, on_bytes or (lambda _: None), group):
            _check(row, columns)
            yield row
    if row is None:
        raise UserError(f"{path} is empty: write its rows, or fetch it again")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give the path of one that does") from error
    except (EOFError, gzip.BadGzipFile, zlib.error, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = first_line(error)
        raise UserError(f"{path} is truncated or damaged ({reason}): write it or fetch it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; give a file that can") from error


def _parts(path: Path, file: BinaryIO, columns: Columns, on_bytes: OnBytes, group: int | None) -> Iterator[SourceRow]:
    start = file.peek(4)[:4] if isinstance(file, io.BufferedReader) else b""
    if start == _PARQUET:
        yield from _parquet(path, columns, on_bytes, group)
        return
    lines = gzip.GzipFile(fileobj=file) if start[:2] == _GZIP else file
    told = 0
    for row in _json(path, lines):
        yield row
        on_bytes(file.tell() - told)
        told = file.tell()


def _parquet(path: Path, columns: Columns, on_bytes: OnBytes, group: int | None) -> Iterator[SourceRow]:
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        present = [name for name in columns if name in file.schema_arrow.names]
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        chosen = list(range(len(sizes))) if group is None else [group]
        line, total, told = sum(sizes[: chosen[0]]) if chosen else 0, max(sum(sizes), 1), path.stat().st_size
        for batch in file.iter_batches(_BATCH, row_groups=chosen, columns=present):
            for values in batch.to_pylist():
                line += 1
                yield SourceRow(line, values, f"{path} row {line}")
            on_bytes(told * line // total - told * (line - len(batch)) // total)


def _json(path: Path, lines: BinaryIO | gzip.GzipFile) -> Iterator[SourceRow]:
    for line, data in enumerate(lines, 1):
        if line == 1:
            data = data.removeprefix(BOM_UTF8)
        if line == 1 and data.lstrip().startswith(b"["):
            yield from _array(path, data + lines.read())
            return
        where = f"{path} line {line}"
        text = _decode(where, data.rstrip(b"\r\n"))
        if text.strip():
            yield SourceRow(line, _object(where, _parse(where, text)), where)


def _array(path: Path, data: bytes) -> Iterator[SourceRow]:
    for number, value in enumerate(_parse(str(path), _decode(str(path), data)), 1):
        where = f"{path} item {number}"
        yield SourceRow(number, _object(where, value), where)


def _decode(where: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte 0x{data[error.start]:02x}); convert the file to UTF-8") from error


def _parse(where: str, text: str) -> Any:
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is JSON, but no text
        return value
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise UserError(f"{where}: broken JSON ({error.msg} at {place}); {_MEND}") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: holds half of a surrogate pair, which is no text; {_MEND}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise UserError(f"{where}: broken JSON ({error}); {_MEND}") from error


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: a JSON {type(value).__name__}; every row must be one JSON object")
    return value


def _check(row: SourceRow, columns: Columns) -> None:
    for column, kind in columns.items():
        if isinstance(row[column], kind):
            continue
        if column not in row.values:
            raise UserError(
                f"{row.where}: no column {column!r} (it has {', '.join(row.values)}); "
                "give the file in its upstream form"
            )
        raise UserError(
            f"{row.where}: column {column!r} is {json.dumps(row[column])[:40]}, which is not {_names(kind)}; "
            "give the file in its upstream form"
        )


def _names(kind: type | UnionType) -> str:
    return " or ".join(_JSON_NAMES[part] for part in get_args(kind) or (kind,))


_JSON_NAMES = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}


def unix(text: str) -> str:
    """The text with its line ends unified: upstreams mix \\r\\n and \\n, which a model would have to learn."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
