"""Folders that a hostile program has written into: measured while it runs, removed when it has ended."""

import errno
import itertools
import os
import secrets
import time
from pathlib import Path

_BLOCK_BYTES = 4096  # what an entry costs, however little is in it
_REMOVAL_ATTEMPTS = 100
_REMOVAL_PAUSE_SECONDS = 0.05


def folder_bytes(folder: Path) -> float:
    """Bytes under a folder; infinite where the program hid some: too deep for a path, or behind taken permissions."""
    total = 0
    pending = [str(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    total += _BLOCK_BYTES + entry.stat(follow_symlinks=False).st_size
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # those the program has removed just now
                return float("inf")
    return total


def empty_folder(folder: Path) -> None:
    """Remove all in a folder; nobody may be writing into it any more.

    Folders are moved up before they are opened, so no depth makes a path too long, and their permissions are put
    right first. Symbolic links are removed, not followed.
    """
    numbers, token = itertools.count(), secrets.token_hex(8)
    pending = [folder]
    while pending:
        current = pending.pop()
        for entry in list(os.scandir(current)):
            if entry.is_dir(follow_symlinks=False):
                Path(entry.path).chmod(0o700)
                pending.append(Path(entry.path).rename(folder / f"{token}-{next(numbers)}"))
            else:
                Path(entry.path).unlink()
        if current != folder:
            current.rmdir()


def remove_folder(folder: Path) -> None:
    """Empty a folder and remove it. Killed programs may need a moment to end, so it is tried for some seconds."""
    for attempt in itertools.count():
        try:
            empty_folder(folder)
            folder.rmdir()
        except OSError:
            if attempt == _REMOVAL_ATTEMPTS:
                raise
            time.sleep(_REMOVAL_PAUSE_SECONDS)
        else:
            return
