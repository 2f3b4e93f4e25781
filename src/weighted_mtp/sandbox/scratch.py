"""Folders that a hostile program writes into: measured while it runs, removed when it has ended."""

import contextlib
import errno
import fcntl
import functools
import itertools
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from weighted_mtp.sandbox.guest.emptying import OPEN_FOLDER, empty_folder

PREFIX = "wmtp-scratch-"
_BLOCK_BYTES = 4096  # what an entry costs, however little is in it
_DEEPEST = 64  # folders inside each other
_REPLACED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # the program has removed or replaced it just now
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
    """Remove the scratch folders of harnesses that were killed; once per process.

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


def folder_bytes(folder: Path, most: float = math.inf) -> float:
    """Bytes under a folder that a program may be writing into, counted up to the first above `most`.

    Infinite if it hid some: deeper than `_DEEPEST` folders, or behind taken permissions. No link is followed, also
    not one that is put in a folder's place meanwhile.
    """
    try:
        descriptor = os.open(folder, OPEN_FOLDER)
    except OSError:
        return math.inf
    return _counted(descriptor, most, 0)


def _counted(folder: int, most: float, depth: int) -> float:
    """Bytes under an open folder, which is closed."""
    total = 0.0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    total += _BLOCK_BYTES + entry.stat(follow_symlinks=False).st_size
                    if entry.is_dir(follow_symlinks=False):
                        if depth == _DEEPEST:
                            return math.inf
                        total += _counted(os.open(entry.name, OPEN_FOLDER, dir_fd=folder), most - total, depth + 1)
                except OSError as error:
                    if error.errno not in _REPLACED:
                        return math.inf
                if total > most:
                    break
    finally:
        os.close(folder)
    return total


def remove_folder(folder: Path) -> None:
    """Empty a folder and remove it. Killed programs may need a moment to end, so it is tried for some seconds."""
    for exchange in itertools.count():
        try:
            empty_folder(str(folder))
            folder.rmdir()
        except OSError:
            if exchange == _REMOVAL_ATTEMPTS:
                raise
            time.sleep(_REMOVAL_PAUSE_SECONDS)
        else:
            return
