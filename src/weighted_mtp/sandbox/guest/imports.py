"""Packages that programs may import: each is found where it lies and nothing beside it, as no folder is searched."""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from typing import Any

# A thread that a library starts would not be there in the forks.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class _Finder:
    """Finds top-level modules in `places`, name → folder or file."""

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if path is not None or name not in self._places:
            return None
        place = self._places[name]
        if os.path.isdir(place):  # noqa: PTH112
            return spec_from_file_location(name, f"{place}/__init__.py", submodule_search_locations=[place])
        return spec_from_file_location(name, place)


def allow_packages(names: Sequence[str], places: dict[str, str]) -> None:
    """Let the packages in `places` be imported, and import those of `names` for all programs to come."""
    if not names:
        return
    sys.meta_path.append(_Finder(places))
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    for name in names:
        importlib.import_module(name)
    if "numpy" in names:
        sys.modules["numpy"].random.seed(0)  # the same program gives the same verdict
    for name in _ONE_THREAD:
        del os.environ[name]
