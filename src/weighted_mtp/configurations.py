"""The configurations that come with the package, found by name (`local/demo`), listed, and copied to be changed.

In a wheel they lie inside the package; in a checkout they are its `configs/` folder, where readers expect them.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_file
from weighted_mtp.wording import near_names

_REFERENCE = re.compile(r"^\s*(?:extends|config):\s*(\S+)", re.MULTILINE)


def folder() -> Path:
    """Where the package's own configurations lie."""
    package = Path(__file__).resolve().parent
    shipped = package / "configs"
    return shipped if shipped.is_dir() else package.parents[1] / "configs"


def names() -> list[str]:
    """All of them, as `local/demo`; not the base that they share."""
    return sorted(file.relative_to(folder()).with_suffix("").as_posix() for file in folder().glob("*/*.yaml"))


def find(path: Path) -> Path:
    """The file that `--config` means: an existing one, or the package's own of that name.

    A name may have `.yaml` at its end and `configs/` in front, so that a path of the documents works anywhere.
    Raises UserError with near names for what is neither.
    """
    if path.is_file():
        return path
    name = _name(path)
    if not path.is_absolute() and (file := folder() / f"{name}.yaml").is_file():
        return file
    near = near_names(name, names())
    raise UserError(f"{path}: no such configuration file or name{near}; `wmtp configs list` shows all")


def beside(parent: Path, path: Path) -> Path:
    """What a configuration in the folder `parent` means by `path`: a file relative to it, else a name as in `find`."""
    file, named = parent / path, folder() / f"{_name(path)}.yaml"
    return named if not file.exists() and named.is_file() else file


def summaries() -> Iterator[tuple[str, str]]:
    """Name of each, and the first sentence of the comment that it begins with."""
    for name in names():
        lines = (folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        comment = " ".join(line.lstrip("# ") for line in _leading(lines))
        yield name, re.split(r"(?<=[.?])\s", comment)[0].rstrip(".")


def copy(name: str, target: Path) -> list[Path]:
    """Copy a configuration, or `all`, with what it extends and what its steps use, to `target/local/…`.

    Files that are there with the same content are left alone. Returns those written. Raises UserError for an unknown
    name, and, before anything is written, for a file that is there with another content.
    """
    wanted = [folder() / f"{n}.yaml" for n in names()] if name == "all" else [find(Path(name))]
    places = {file: target / file.relative_to(folder()) for file in _with_references(wanted)}
    for file, place in places.items():
        if place.exists() and place.read_bytes() != file.read_bytes():
            raise UserError(f"{place} is there and differs from the package's: choose another --to, or move it away")
    written = []
    for file, place in places.items():
        if not place.exists():
            with atomic_file(place) as partial:
                partial.write_bytes(file.read_bytes())
            written.append(place)
    return written


def complete(incomplete: str) -> list[str]:
    """For the shell: names that begin so."""
    return [name for name in names() if name.startswith(incomplete)]


def _name(path: Path) -> str:
    return path.as_posix().removeprefix("configs/").removesuffix(".yaml")


def _leading(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def _with_references(files: list[Path]) -> list[Path]:
    """The files and, of each, what it extends and its steps' configurations, each once."""
    found: list[Path] = []
    for file in files:
        if file not in found:
            named = _REFERENCE.findall(file.read_text(encoding="utf-8"))
            for other in [file, *_with_references([(file.parent / name).resolve() for name in named])]:
                if other not in found:
                    found.append(other)
    return found
