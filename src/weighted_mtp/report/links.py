"""Links from a page to those of what belongs together: relative, so that folders sent as a whole stay whole."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

PAGE = "page.html"
"""Name of a folder's page, beside what it is a page of."""


@dataclass(frozen=True)
class Link:
    """A name, and where a page leads to from the one that it is on."""

    name: str
    href: str


@dataclass(frozen=True)
class Links:
    """Makes links on a page.

    page     where the page is written
    planned  pages that will be there when all are written, without symbolic links
    """

    page: Path
    planned: frozenset[Path] = frozenset()

    def to(self, folder: Path, name: str) -> Link | None:
        """A link to the page of `folder`; None if it has none."""
        target = (folder / PAGE).resolve()
        if target not in self.planned and not target.is_file():
            return None
        return Link(name, quote(Path(os.path.relpath(target, self.page.parent.resolve())).as_posix()))

    def among(self, folders: Iterable[tuple[str, Path]]) -> list[Link]:
        """Links to those of the named folders that have a page."""
        return [link for name, folder in folders if (link := self.to(folder, name)) is not None]
