"""Emptying a folder in which a hostile program has made what it liked."""

# ruff: noqa: PTH101, PTH104, PTH106, PTH108
import itertools
import os
import secrets


def empty_folder(folder: str) -> None:
    """Remove all in a folder; nobody may be writing into it any more.

    Folders are moved up before they are opened, so no depth makes a path too long, and their permissions are put
    right first where that is allowed. Symbolic links are removed, not followed. Raises OSError where something stays.
    """
    with os.scandir(folder) as entries:
        found = list(entries)
    if not found:
        return
    numbers, token = itertools.count(), secrets.token_hex(8)
    pending = [folder]
    while pending:
        current = pending.pop()
        with os.scandir(current) as entries:
            found = list(entries)
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                moved = f"{folder}/{token}-{next(numbers)}"
                _open_up(entry.path)
                os.rename(entry.path, moved)
                pending.append(moved)
            else:
                os.unlink(entry.path)
        if current != folder:
            os.rmdir(current)


def _open_up(folder: str) -> None:
    try:
        os.chmod(folder, 0o700)
    except PermissionError:  # as in the sandbox, where no program can have taken them away either
        return
