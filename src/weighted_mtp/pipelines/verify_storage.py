"""Is everything under `storage/` whole and what it says it is?

    uv run python scripts/create_storage/verify_storage.py --check all --generate-report
    uv run wmtp verify --check datasets

Exits with 1 where something is wrong; every failure says what to run.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Column, Table

from weighted_mtp.data.preparation.registry import NAMES
from weighted_mtp.data.preparation.verify import check_dataset
from weighted_mtp.data.schema import SMALL
from weighted_mtp.data.tables import prepare_command
from weighted_mtp.data.tokens import FOLDER as TOKENS
from weighted_mtp.data.tokens import check_tokens
from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_file
from weighted_mtp.manifest import MANIFEST
from weighted_mtp.models.catalog import setup_command
from weighted_mtp.models.model_folder import check_model
from weighted_mtp.progress import progress

FAILED = 1
REPORT = "verification"


@dataclass(frozen=True)
class FolderCheck:
    """What was found of one folder; `remedy` is the command that rebuilds it, "" if all is well."""

    folder: str
    good: bool
    found: str
    remedy: str = ""


def check_storage(storage: Path, what: Literal["all", "models", "datasets"]) -> list[FolderCheck]:
    """Check every model and dataset folder, and what was tokenized of datasets.

    Raises UserError if there is none to check.
    """
    jobs: list[tuple[Path, Callable[[Path], str], Callable[[Path], str]]] = []
    if what in ("all", "models"):
        jobs += [(folder, check_model, _model_remedy) for folder in _folders(storage / "models")]
    if what in ("all", "datasets"):
        jobs += [(folder, check_dataset, _dataset_remedy) for folder in _folders(storage / "datasets")]
        made = sorted((storage / "datasets" / TOKENS).glob(f"*/*/*/{MANIFEST}"))  # not those in the making
        jobs += [(manifest.parent, check_tokens, _tokens_remedy) for manifest in made]
    if not jobs:
        raise UserError(
            f"--storage {storage}: holds nothing to check; fill it with `uv run wmtp models setup`, `uv run wmtp data`"
        )
    checks = []
    with progress("verifying", len(jobs)) as advance:
        for folder, check, remedy in jobs:
            try:
                checks.append(FolderCheck(str(folder), True, check(folder)))
            except UserError as error:
                checks.append(FolderCheck(str(folder), False, str(error), remedy(folder)))
            advance(1, folder.name)
    return checks


def _folders(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _model_remedy(folder: Path) -> str:
    return f"rm -r {folder} && {setup_command(folder.name)}{_storage(folder)}"


def _dataset_remedy(folder: Path) -> str:
    if folder.name.removesuffix(SMALL) not in NAMES:
        return f"rm -r {folder}"  # no command makes it
    return f"rm -r {folder} && {prepare_command(folder.name)}{_storage(folder)}"


def _tokens_remedy(folder: Path) -> str:
    return f"rm -r {folder}"  # whoever needs them next rebuilds them


def _storage(folder: Path) -> str:
    """The option that says where a folder's storage lies, if it is not the default."""
    storage = folder.parent.parent
    return "" if storage == Path("storage") else f" --storage {storage}"


def write_report(storage: Path, checks: list[FolderCheck]) -> Path:
    """Write `verification.md` and `verification.json` under `storage`; returns the first."""
    with atomic_file(storage / f"{REPORT}.json") as file:
        file.write_text(json.dumps([asdict(check) for check in checks], indent=2) + "\n")
    lines = ["# Verification of storage", "", "| folder | | found | what to run |", "|---|---|---|---|"]
    for check in checks:
        remedy = f"`{check.remedy}`" if check.remedy else ""
        lines.append(f"| {check.folder} | {'good' if check.good else '**wrong**'} | {check.found} | {remedy} |")
    with atomic_file(storage / f"{REPORT}.md") as file:
        file.write_text("\n".join(lines) + "\n")
    return storage / f"{REPORT}.md"


def verify_and_say(storage: Path, what: Literal["all", "models", "datasets"], with_report: bool) -> bool:
    """Check, print what was found and how to fix it, write the report if it is wanted; returns whether all is good."""
    checks = check_storage(storage, what)
    table = Table(Column("folder", overflow="fold"), "", "found", box=None)
    for item in checks:
        table.add_row(
            str(Path(item.folder).relative_to(storage)), "[green]good" if item.good else "[red]wrong", item.found
        )
    console = Console()
    console.print(table)
    for item in checks:
        if not item.good:
            console.print(f"{item.folder}: run `{item.remedy}`", soft_wrap=True, highlight=False)
    if with_report:
        console.print(f"report: {write_report(storage, checks)}", soft_wrap=True)
    return all(item.good for item in checks)
