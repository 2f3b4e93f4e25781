"""What is kept of a dataset, and how small a slice of it is."""

from typing import Annotated

from pydantic import Field

from weighted_mtp.section import Flag, Names, Section


class Options(Section):
    """What is kept of a dataset."""

    languages: Names = ("python3",)
    """Languages of CodeContests-like solutions: python2, cpp, python3, java; or all."""
    max_problems: int | None = Field(None, ge=1)
    """Only the first N problems of each split, for a quick look."""
    max_solution_characters: int = Field(100_000, ge=1)
    """Longer solutions are dropped, and counted."""
    keep_contaminated: bool = False
    """Report training problems that overlap an evaluation set, but keep them."""


class SliceOptions(Section):
    """How small `<dataset>-small` is."""

    max_problems: Annotated[int, Flag("small-problems")] = Field(100, ge=1)
    """Problems of each split of the slice."""
    max_solutions: Annotated[int, Flag("small-solutions")] = Field(8, ge=1)
    """Solutions of each problem and label in the slice."""
    seed: int = Field(0, ge=0)
    """Seed for the slice."""
