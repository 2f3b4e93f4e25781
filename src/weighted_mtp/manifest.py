"""`manifest.json`: what a folder under `storage/` was made of, what it holds, and the checksums of its files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weighted_mtp.errors import UserError
from weighted_mtp.files import FileDescriptions, atomic_file, describe_files

MANIFEST = "manifest.json"

Manifest = dict[str, Any]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None if there is none. Raises UserError if it is damaged."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError
        return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(f"{folder / MANIFEST} is damaged: delete the folder and make it again") from error


def named_files(folder: Path) -> FileDescriptions:
    """The files that a folder's manifest names. Raises UserError if there is no manifest, or a damaged one."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder / MANIFEST} is missing")
    files: FileDescriptions = manifest["files"]
    return files


def files_present(folder: Path, manifest: Manifest, names: Iterable[str]) -> bool:
    """Whether the manifest names these files and all are there with their sizes; `check_files` compares contents."""
    described = manifest.get("files", {})
    return all(
        name in described and (folder / name).is_file() and (folder / name).stat().st_size == described[name]["bytes"]
        for name in names
    )


def made_from(manifest: Manifest, wanted: Manifest) -> bool:
    """Whether what the manifest describes was made from all that is `wanted`."""
    return all(manifest.get(key) == value for key, value in wanted.items())


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write a folder's manifest with the checksums of the files that are there now; returns it."""
    described = {**manifest, "files": describe_files(folder, leave_out=frozenset({MANIFEST}))}
    with atomic_file(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return described
