"""A split on disk, for tests of what reads it."""

from collections.abc import Iterable
from pathlib import Path

from weighted_mtp.data.schema import Problem, Solution
from weighted_mtp.data.tables import write_tables
from weighted_mtp.files import atomic_directory, writing_to


def write_split(directory: Path, problems: Iterable[Problem], solutions: Iterable[Solution]) -> None:
    """Write one split's two files; an earlier version is replaced as a whole."""
    with writing_to(directory), atomic_directory(directory) as partial:
        write_tables(partial, problems, solutions)
