"""Packages that are installed on demand, and the line that names a missing one."""

from functools import cache
from importlib.util import find_spec
from typing import Literal

from weighted_mtp.progress import say

Extra = Literal["mlflow", "plots", "slurm", "tensorboard", "wandb"]
_NEEDS: dict[Extra, str] = {
    "mlflow": "mlflow",
    "plots": "matplotlib",
    "slurm": "submitit",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}
"""Extra → a package of it that everything else of it is for."""


def has(extra: Extra) -> bool:
    """Whether what an extra brings is installed; nothing of it is imported."""
    return find_spec(_NEEDS[extra]) is not None


def install(extra: Extra) -> str:
    """How to get it, in words."""
    return f"install {_NEEDS[extra]} with `pip install 'weighted-mtp[{extra}]'` (in a checkout: `uv sync --dev`)"


def can_draw() -> bool:
    """Whether there are figures; where not, says so once."""
    return has("plots") or _say_once(f"no figures are drawn: {install('plots')}")


@cache
def _say_once(line: str) -> bool:
    say(line)
    return False
