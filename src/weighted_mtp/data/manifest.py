"""`manifest.json` of a prepared dataset: what it was made of, what it holds, and the checksums of its files.

dataset, version        its name, and the version of what made it
options, source         what it was made from: with the same of both, the same bytes come out
rows_in, dropped        rows read; reason → how many were left out
splits                  split → {"problems", "correct", "incorrect"}
contamination           which evaluation sets the training split was compared with, and what was found
files                   relative name → {"sha256", "bytes"}, of everything but the manifest
"""

import json
from pathlib import Path
from typing import Any

from weighted_mtp.data.schema import PROBLEMS_FILE, SOLUTIONS_FILE, prepare_command
from weighted_mtp.errors import UserError
from weighted_mtp.files import describe_files, whole_file

MANIFEST = "manifest.json"

Manifest = dict[str, Any]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a dataset's folder, None where there is none. Raises UserError where it is damaged."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError
        return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(f"{folder / MANIFEST} is damaged: delete it to make the dataset again") from error


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write a folder's manifest with the checksums of the files that are there now; returns it."""
    described = {**manifest, "files": describe_files(folder, leave_out=frozenset({MANIFEST}))}
    with whole_file(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return described


def require_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared dataset. Raises UserError with what to run where it is not prepared."""
    found = read_manifest(folder)
    if found is None:
        raise UserError(f"{folder} is not prepared: make it with `{prepare_command(folder.name)}` first")
    return found


def split_checksums(manifest: Manifest, split: str) -> list[str]:
    """SHA-256 of a split's two files: what else is made from them is up to date while these stay."""
    return [manifest["files"][f"{split}/{name}"]["sha256"] for name in (PROBLEMS_FILE, SOLUTIONS_FILE)]
