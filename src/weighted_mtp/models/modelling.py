"""A policy's code in its own folder: what `trust_remote_code=True` runs where this package is not installed."""

import json
import shutil
from pathlib import Path

from weighted_mtp.models import mtp

MODULE = "modeling_weighted_mtp"
_AUTO_MAP = {
    "AutoConfig": f"{MODULE}.{mtp.MTPConfig.__name__}",
    "AutoModelForCausalLM": f"{MODULE}.{mtp.MTPForCausalLM.__name__}",
}


def write_modelling(folder: Path) -> None:
    """Put the modelling file beside a policy's weights, and name its classes in `config.json`. Raises OSError.

    The file is `models/mtp.py` itself, which imports nothing of this package that it needs.
    """
    shutil.copyfile(mtp.__file__, folder / f"{MODULE}.py")
    file = folder / "config.json"
    config = {**json.loads(file.read_text(encoding="utf-8")), "auto_map": _AUTO_MAP}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
