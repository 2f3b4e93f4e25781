"""Work that outlives a kill: one JSON line for each finished piece, appended as it comes."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from weighted_mtp.errors import UserError


class Journal:
    """A file of JSON objects, a line each, read when it is opened and then only appended to; a context manager.

    What a kill leaves of a last line is cut off, and so is everything after the first line that is no JSON object.

    Raises UserError if the file cannot be made, read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        self._ends = [0]  # of each record's line, in bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            self._read()
        except OSError as error:
            raise _refused(path, error) from error
        self.keep(len(self.records))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # `add` has raised it already
            self._file.close()

    def _read(self) -> None:
        self._file.seek(0)
        for line in self._file:
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                return
            if not isinstance(record, dict):
                return
            self.records.append(record)
            self._ends.append(self._ends[-1] + len(line))

    def keep(self, most: int) -> None:
        """Drop all records but the first `most`."""
        del self.records[most:], self._ends[most + 1 :]
        try:
            self._file.truncate(self._ends[-1])
        except OSError as error:
            raise _refused(self.path, error) from error

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Append records; they are the system's to keep when this returns."""
        try:
            for record in records:
                line = json.dumps(record).encode() + b"\n"
                self._file.write(line)
                self.records.append(record)
                self._ends.append(self._ends[-1] + len(line))
            self._file.flush()
        except OSError as error:
            raise _refused(self.path, error) from error


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror or error}); make room or choose another folder")
