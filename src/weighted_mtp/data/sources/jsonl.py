"""The one reader of JSON-lines files, plain or gzipped, with an error message for each way in which they break."""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weighted_mtp.errors import UserError


@dataclass(frozen=True)
class Row:
    """One object of a file, and the line it stands on (1-based)."""

    line: int
    values: dict[str, Any]

    def __getitem__(self, column: str) -> Any:
        return self.values[column]


def read_jsonl(path: Path, columns: Mapping[str, type], unique: str) -> list[Row]:
    """Rows of a JSON-lines file, each with at least `columns` of the given types; `unique` is a column without repeats.

    Blank lines are skipped. A file is gzipped if it begins as one, whatever its name.

    Raises UserError naming file, line and remedy: missing or unreadable file, damaged gzip, not UTF-8, broken JSON,
    not an object, missing column, wrong type, repeated key, no rows.
    """
    rows: list[Row] = []
    seen: dict[Any, int] = {}
    for line, text in enumerate(_text(path).split("\n"), 1):
        if not text.strip():
            continue
        row = Row(line, _parse(path, line, text))
        _check(path, row, columns)
        key = row[unique]
        if key in seen:
            raise UserError(f"{path} line {line}: {unique} {key!r} is also on line {seen[key]}; remove one of them")
        seen[key] = line
        rows.append(row)
    if not rows:
        raise UserError(f"{path} is empty: fetch it again")
    return rows


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give the path of the dataset's .jsonl or .jsonl.gz file") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): fetch it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give a file that can") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); convert the file to UTF-8"
        ) from error


def _parse(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} line {line}: broken JSON ({error.msg} at column {error.colno}); fetch the file again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} line {line}: a JSON {type(value).__name__}; every line must be one JSON object")
    return value


def _check(path: Path, row: Row, columns: Mapping[str, type]) -> None:
    for column, kind in columns.items():
        if column not in row.values:
            raise UserError(
                f"{path} line {row.line}: no column {column!r} (it has {', '.join(row.values)}); "
                "give the file in its upstream form"
            )
        if not isinstance(row[column], kind):
            raise UserError(
                f"{path} line {row.line}: column {column!r} is {json.dumps(row[column])[:40]}, "
                f"which is not {_JSON_NAMES[kind]}; give the file in its upstream form"
            )


_JSON_NAMES = {str: "a string", int: "an integer", list: "a list"}
