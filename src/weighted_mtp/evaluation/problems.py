"""The problems of an evaluation: statements in memory, tests on disk until a program meets them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from weighted_mtp.data.schema import Problem
from weighted_mtp.data.tables import PROBLEMS_FILE, read_statements, stream_problems, untested
from weighted_mtp.errors import UserError
from weighted_mtp.files import sha256
from weighted_mtp.manifest import files_present, read_manifest
from weighted_mtp.wording import counted


class ProblemSet:
    """The first problems of a prepared split, all where `first` is None.

    statements  the problems in the order of their rows, with no tests but those that prompts show
    row         problem id → row

    Raises UserError for a split that is missing or damaged.
    """

    def __init__(self, split: Path, first: int | None = None) -> None:
        self._split = split
        self.statements = read_statements(split)[:first]
        self.row = {problem.problem_id: row for row, problem in enumerate(self.statements)}

    def require_tests(self) -> None:
        """Refuse a split with a problem that has none: anything would pass it."""
        if without := untested(self._split):
            raise UserError(
                f"{self._split}: {counted(len(without), 'problem')} without tests, such as {without[0]}: give `tests`, "
                "or put them into the train split, and import again"
            )

    def with_tests(self, rows: Sequence[int]) -> Iterator[Problem]:
        """The problems at `rows`, which rise, with all their tests; few of them are in memory at a time."""
        return stream_problems(self._split, rows)

    def checksum(self) -> str:
        """SHA-256 of the split's problems, from the dataset's manifest if the file is still the one it describes."""
        name = f"{self._split.name}/{PROBLEMS_FILE}"
        manifest = read_manifest(self._split.parent) or {}
        if files_present(self._split.parent, manifest, [name]):
            return str(manifest["files"][name]["sha256"])
        return sha256(self._split / PROBLEMS_FILE)
