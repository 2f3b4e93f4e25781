"""`manifest.json` of a prepared dataset: what it was made of, what it holds, and the checksums of its files.

dataset, version        its name, and the version of what made it
options, source         what it was made from: with the same of both, the same bytes come out
rows_in, dropped        rows read; reason → how many were left out
splits                  split → {"problems", "correct", "incorrect"}
contamination           which evaluation sets the training split was compared with, and what was found
files                   relative name → {"sha256", "bytes"}, of everything but the manifest
"""

from pathlib import Path

from weighted_mtp.data.tables import PROBLEMS_FILE, SOLUTIONS_FILE, prepare_command
from weighted_mtp.errors import UserError
from weighted_mtp.manifest import Manifest, files_present, read_manifest
from weighted_mtp.wording import near_paths


def require_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared dataset. Raises UserError with what to run if it is not prepared."""
    found = read_manifest(folder)
    if found is None:
        near = near_paths(folder)
        raise UserError(f"{folder} is not prepared: make it with `{prepare_command(folder.name)}` first{near}")
    return found


def split_files(split: str) -> list[str]:
    """Names of a split's two files in a manifest."""
    return [f"{split}/{name}" for name in (PROBLEMS_FILE, SOLUTIONS_FILE)]


def split_checksums(manifest: Manifest, split: str) -> list[str]:
    """SHA-256 of a split's two files: what else is made from them is up to date while these stay."""
    return [manifest["files"][name]["sha256"] for name in split_files(split)]


def has_splits(folder: Path, manifest: Manifest) -> bool:
    """Whether both files of every split are there."""
    return files_present(
        folder, manifest, [name for split in manifest.get("splits", ()) for name in split_files(split)]
    )
