"""Words that messages, tables and pages share: a number with its noun, and names like one that is missing."""

import difflib
from collections.abc import Iterable
from pathlib import Path


def counted(number: int, noun: str) -> str:
    """`1 problem`, `2,000 problems`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def near_names(name: str, known: Iterable[str]) -> str:
    """`; near it: a, b`, to end a message about an unknown name with; "" if none is like it or holds its last part."""
    names, word = [*known], name.rpartition("/")[2]
    near = difflib.get_close_matches(name, names, n=3) or [other for other in names if word and word in other][:3]
    return f"; near it: {', '.join(near)}" if near else ""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.0) -> str:
    """The name most like it; "" if none is as like as `cutoff`, of 1."""
    return next(iter(difflib.get_close_matches(name, [*known], n=1, cutoff=cutoff)), "")


def near_paths(path: Path) -> str:
    """The same for a missing path: those that differ from it in the first part that is missing."""
    above = next((folder for folder in path.parents if folder.is_dir()), None)
    if above is None or path.exists():
        return ""
    missing, *rest = path.relative_to(above).parts
    there = {name: above.joinpath(name, *rest) for name in sorted(child.name for child in above.iterdir())}
    near = difflib.get_close_matches(missing, [name for name, found in there.items() if found.exists()], n=3)
    return f"; near it: {', '.join(str(there[name]) for name in near)}" if near else ""
