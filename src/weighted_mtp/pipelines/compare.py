"""Evaluations of several arms side by side, on the same problems.

uv run wmtp compare storage/evaluations/baseline storage/evaluations/verifiable
uv run wmtp compare uniform=eval/u-1,eval/u-2 verifiable=eval/v-1,eval/v-2 --output comparison.md
"""

import os
from collections.abc import Sequence
from pathlib import Path

from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_file
from weighted_mtp.report.comparison import Comparison
from weighted_mtp.report.comparison_page import comparison_markdown


def named_arms(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """`DIR` or `name=DIR,DIR` each → name → folders; a bare folder is named by its path, without
    what the paths of all bare folders begin with.

    Raises UserError for a name that comes twice, and for a name without folders.
    """
    bare = [argument for argument in arguments if Path(argument).is_dir() or "=" not in argument]
    shared = os.path.commonpath([str(Path(folder).resolve()) for folder in bare]) if len(set(bare)) > 1 else ""
    arms: dict[str, list[Path]] = {}
    for argument in arguments:
        name, folders = (_short(argument, shared), [argument]) if argument in bare else _split(argument)
        if name in arms:
            raise UserError(f"{argument}: the arm {name} was given before; give all its folders at once: name=DIR,DIR")
        if not name or not all(folders):
            raise UserError(f"{argument}: must be DIR or name=DIR,DIR, one folder per seed")
        arms[name] = [Path(folder) for folder in folders]
    return arms


def _short(folder: str, shared: str) -> str:
    whole = str(Path(folder).resolve())
    return os.path.relpath(whole, shared) if shared not in ("", whole) else folder


def _split(argument: str) -> tuple[str, list[str]]:
    name, _, folders = argument.partition("=")
    return name.strip(), [folder.strip() for folder in folders.split(",")]


def write_comparison(comparison: Comparison, output: Path) -> None:
    """Write the comparison as Markdown."""
    with atomic_file(output) as partial:
        partial.write_text(comparison_markdown(comparison))
