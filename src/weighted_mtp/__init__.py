"""Multi-token prediction in which the tokens that decide whether a program works count more.

Importing this makes policies loadable: transformers' Auto classes know them from their first use on. Neither torch nor
transformers is imported for it.
"""

import functools
import importlib
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["load_critic", "token_weights"]

# OpenMP threads that wait for work spin, some milliseconds by default. Beside any other busy process that makes a
# training step twenty times slower; with this it costs what sharing costs (docs/LOG.md). Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Memory of tensors in pages of 2 MiB where Linux leaves that to programs: mapping it in pages of 4 KiB takes a tenth of
# a small model's training step (docs/LOG.md). Read when torch is loaded.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# What PyTorch has not written for Apple's GPUs is computed by the CPU. Read when torch is loaded, too.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

_PUBLIC = dict.fromkeys(__all__, "weighted_mtp.pipelines.weighing")
"""Name → the module that has it, which is imported when it is first asked for."""


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_AUTO_CONFIG = "transformers.models.auto.configuration_auto"


def _register_on_first_use(module: ModuleType) -> None:
    """Let the first `AutoConfig.from_pretrained`, which every Auto class and pipeline calls, register policies."""
    auto = module.AutoConfig
    usual = vars(auto)["from_pretrained"]

    @functools.wraps(usual.__func__)
    def from_pretrained(cls: type, *arguments: Any, **options: Any) -> Any:
        auto.from_pretrained = usual
        importlib.import_module("weighted_mtp.models")
        return usual.__func__(cls, *arguments, **options)

    auto.from_pretrained = classmethod(from_pretrained)


class _Registering:
    """Waits until transformers' AutoConfig is imported. A finder and a loader, without `importlib.abc`: it is large."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != _AUTO_CONFIG:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        if spec is not None and spec.loader is not None:
            self._loader, spec.loader = spec.loader, self  # type: ignore[assignment]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register_on_first_use(module)


if _AUTO_CONFIG in sys.modules:
    _register_on_first_use(sys.modules[_AUTO_CONFIG])
else:
    sys.meta_path.insert(0, _Registering())
