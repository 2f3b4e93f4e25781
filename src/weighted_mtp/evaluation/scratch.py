"""Folders that a hostile program writes into: measured while it runs, removed when it has ended."""

import contextlib
import errno
import fcntl
import functools
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from weighted_mtp.evaluation.guest.emptying import empty_folder

PREFIX = "wmtp-scratch-"
_BLOCK_BYTES = 4096  # what an entry costs, however little is in it
_REMOVAL_ATTEMPTS = 100
_REMOVAL_PAUSE_SECONDS = 0.05
_YOUNG_SECONDS = 60.0  # a folder that another harness may have made and not yet locked


class ScratchFolder:
    """A folder in the system's folder for temporary files, locked for as long as this process has a use for it."""

    def __init__(self) -> None:
        remove_abandoned(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it with all that is in it."""
        remove_folder(self.path)
        os.close(self._lock)


@functools.cache
def remove_abandoned(folder: Path) -> None:
    """Remove the scratch folders of harnesses that were killed; once a process.

    Only folders of this user that nobody has locked: a lock ends with its process, in whichever container that runs.
    """
    for path in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _locked(path):  # somebody else's, in use, or removed by another harness
            remove_folder(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _YOUNG_SECONDS:
            raise PermissionError(path)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


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


def remove_folder(folder: Path) -> None:
    """Empty a folder and remove it. Killed programs may need a moment to end, so it is tried for some seconds."""
    for attempt in itertools.count():
        try:
            empty_folder(str(folder))
            folder.rmdir()
        except OSError:
            if attempt == _REMOVAL_ATTEMPTS:
                raise
            time.sleep(_REMOVAL_PAUSE_SECONDS)
        else:
            return
