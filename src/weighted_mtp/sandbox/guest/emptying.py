"""Emptying a folder in which a hostile program has made what it liked."""

# ruff: noqa: PTH101
import os
from collections.abc import Iterator

OPEN_FOLDER = (
    os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
)  # how a hostile program's folder is opened: never through a link


def empty_folder(folder: str) -> None:
    """Remove all in a folder.

    Folders are moved up before they are opened, so no depth makes a path too long, and their permissions are put
    right first if that is allowed. Symbolic links are removed and never followed, not even those that a program
    which is still running puts in a folder's place. Raises OSError if something stays.
    """
    top = os.open(folder, OPEN_FOLDER)
    try:
        names = _new_names()
        moved = _stripped(top, top, names)
        while moved:
            name = moved.pop()
            inner = os.open(name, OPEN_FOLDER, dir_fd=top)
            try:
                moved += _stripped(inner, top, names)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _new_names() -> Iterator[str]:
    token, number = os.urandom(8).hex(), 0
    while True:
        yield f"{token}-{number}"
        number += 1


def _stripped(folder: int, top: int, names: Iterator[str]) -> list[str]:
    """Remove a folder's files and links and move its folders into `top` → their names there."""
    with os.scandir(folder) as entries:
        found = list(entries)
    moved = []
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            _open_up(entry.name, folder)
            moved.append(next(names))
            os.rename(entry.name, moved[-1], src_dir_fd=folder, dst_dir_fd=top)
        else:
            os.unlink(entry.name, dir_fd=folder)
    return moved


def _open_up(name: str, folder: int) -> None:
    """Allow its owner everything. What the kernel cannot change without following a link is opened as a place first."""
    try:
        if os.chmod in os.supports_follow_symlinks:
            os.chmod(name, 0o700, dir_fd=folder, follow_symlinks=False)
            return
        place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            os.chmod(f"/proc/self/fd/{place}", 0o700)
        finally:
            os.close(place)
    except (PermissionError, FileNotFoundError):  # in the sandbox, where no program can have taken them away either
        return
