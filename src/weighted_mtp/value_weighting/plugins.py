"""Token weightings from outside, found by import path or entry point: adding one touches no file of this package.

`token_weighting: my_package.module:MyWeighting` names a class, in a package or in a file in the current folder. Or a
distribution declares, in its own pyproject.toml,

    [project.entry-points."weighted_mtp.token_weightings"]
    my_weighting = "my_package:MyWeighting"

Either is called with the policy in training and the user's options, and returns a `TokenWeighting`:

    class MyWeighting:
        def __init__(self, policy, *, temperature=1.0): ...
"""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from weighted_mtp.errors import UserError
from weighted_mtp.value_weighting.base import TokenWeighting
from weighted_mtp.wording import nearest

GROUP = "weighted_mtp.token_weightings"

PluginFactory = Callable[..., TokenWeighting]
"""`factory(policy, **options)`: the `MTPForCausalLM` in training, and the options of the configuration."""


def weighting_named(name: str) -> PluginFactory:
    """The factory at an import path `module:Class`, or the one that an installed distribution offers under this name.

    Raises UserError for a name that no distribution gives (with the nearest that one does) or several give, and for
    one that cannot be imported.
    """
    if ":" in name:
        return _imported(name)
    found = entry_points(group=GROUP, name=name)
    if not found:
        installed = sorted(entry_points(group=GROUP).names)
        hint = f"the nearest is {nearest(name, installed)}" if installed else "none is"
        raise UserError(f"weighting {name}: no installed package offers it as an entry point of {GROUP}; {hint}")
    if len(found) > 1:
        owners = ", ".join(sorted(entry.dist.name for entry in found if entry.dist))
        raise UserError(f"weighting {name}: offered by several installed packages ({owners}); uninstall all but one")
    (entry,) = found
    return _loaded(name, entry)


def _imported(name: str) -> PluginFactory:
    """What `module:Class` names; a module may lie in the current folder, as with `python -m`."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UserError(f"weighting {name}: must have the form module:Class, such as my_package.weighting:MyWeighting")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return _loaded(name, EntryPoint(name, name, GROUP))


def _loaded(name: str, entry: EntryPoint) -> PluginFactory:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"weighting {name}: {entry.value} cannot be imported: {error}") from error
