"""Files and folders that are there whole or not at all."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from weighted_mtp.errors import UserError, first_line

FileDescriptions = dict[str, dict[str, str | int]]
"""Relative name → `{"sha256": …, "bytes": …}`, as manifests keep it."""


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it becomes `path` (replacing an older one), else it is removed.

    A crash leaves at most a hidden `.name.partial`, which the next attempt clears and no reader looks at.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    partial, old = partial_name(path), path.with_name(f".{path.name}.old")
    for left_over in (partial, old):
        shutil.rmtree(left_over, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            path.rename(old)
        partial.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """One line, a UserError, for a place that cannot be written."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else first_line(error)  # Arrow words it at length
        raise UserError(f"cannot write {path}: {reason}; make room or give a folder that can be written") from error


def partial_name(path: Path) -> Path:
    """Where a file or folder is while it is being written."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a name to write to; on success it becomes `path`, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def describe_files(folder: Path, leave_out: frozenset[str] = frozenset()) -> FileDescriptions:
    """Size and SHA-256 of every file in a folder and below, by its name relative to the folder, sorted."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return {
        name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
        for name in names
        if name not in leave_out
    }


def check_files(folder: Path, described: Mapping[str, Mapping[str, str | int]]) -> None:
    """Compare a folder with what `describe_files` once said. Raises UserError for the first file missing or changed."""
    for name, expected in described.items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"{file} is missing")
        if (size := file.stat().st_size) != expected["bytes"]:
            raise UserError(f"{file} has {size} bytes instead of {expected['bytes']}: it is truncated or was changed")
        if sha256(file) != expected["sha256"]:
            raise UserError(f"{file} has another SHA-256 than when it was written: it is damaged or was changed")


def sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
