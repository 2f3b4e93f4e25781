"""Packages of this environment that programs may import, and the files of theirs that the sandbox has to show."""

import functools
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import NamedTuple

from weighted_mtp.errors import UserError

_SUFFIXES = (".py", ".so")


class Packages(NamedTuple):
    """What programs may import beside the standard library.

    names     as an import statement has them; a warm interpreter imports these once, for all its programs
    modules   (name, folder or file) of each, and of what they require
    readable  all of their files and folders
    """

    names: tuple[str, ...] = ()
    modules: tuple[tuple[str, str], ...] = ()
    readable: tuple[str, ...] = ()


def installed(names: Sequence[str]) -> Packages:
    """The packages of these names and all that they require. Raises UserError for one that is not there to be given."""
    return _installed(tuple(sorted(set(names))))


@functools.cache
def _installed(names: tuple[str, ...]) -> Packages:
    modules: dict[str, str] = {}
    readable: set[str] = set()
    for found in _with_requirements([_providing(name) for name in names]):
        for path in _top_level(found):
            readable.add(str(path.resolve()))
            if (path / "__init__.py").is_file() or path.suffix in _SUFFIXES:
                modules[path.name.partition(".")[0]] = str(path.resolve())
    return Packages(names, tuple(sorted(modules.items())), tuple(sorted(readable)))


def _providing(name: str) -> str:
    """The distribution that an importable name belongs to."""
    if name in sys.stdlib_module_names:
        raise UserError(f"packages: {name} is part of the standard library, which programs always have; leave it out")
    providers = packages_distributions().get(name)
    if not providers:
        raise UserError(
            f"packages: nothing called {name} can be imported here; give the name that an import statement has, of a "
            "package that is installed in this environment"
        )
    return providers[0]


def _with_requirements(names: Sequence[str]) -> Iterator[Distribution]:
    """Distributions and what they need here, each once."""
    if not names:
        return
    from packaging.requirements import Requirement

    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # such as an optional backend, which the package does without
            continue
        yield found
        needed = [Requirement(line) for line in found.requires or ()]
        waiting += [need.name for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]


def _top_level(found: Distribution) -> Iterator[Path]:
    """Files and folders of a distribution where modules are looked for: the libraries beside them too."""
    names = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
    for name in sorted(names):
        path = Path(str(found.locate_file(name)))
        if path.suffix != ".dist-info" and path.exists():
            yield path
