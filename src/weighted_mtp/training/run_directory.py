"""A run's folder: resolved configuration, manifest, records."""

import json
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from weighted_mtp.config import load_config, save_config
from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_file
from weighted_mtp.runtime.distributed import by_first_rank, ranks
from weighted_mtp.section import Section, differences

Record = dict[str, Any]
"""One line of `metrics.jsonl`: `step`, `split`, and values by their names."""


def values_of(record: Record) -> dict[str, float]:
    """A record's values as trackers name them: `train/loss`."""
    return {f"{record['split']}/{name}": value for name, value in record.items() if name not in ("step", "split")}


PACKAGES = ("torch", "transformers", "peft", "tokenizers", "numpy", "weighted-mtp")


class RunDirectory:
    """A run's folder: `config.yaml`, `run.json`, `metrics.jsonl`, `checkpoints/`."""

    def __init__(self, path: Path, config: Section) -> None:
        """Create the folder, or take it over if it holds the same configuration; only the first rank writes.

        Raises `UserError` if it holds another: a resumed run must be the run it resumes.
        """
        self.path, self.config = path, config
        by_first_rank(self._take)

    def _take(self) -> None:
        if not holds_run(self.path, self.config):
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path / "config.yaml") as partial:
                save_config(self.config, partial)
        self._write_manifest()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def manifest(self) -> dict[str, Any]:
        file = self.path / "run.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def remember(self, **facts: Any) -> None:
        """Add facts to `run.json`."""
        with atomic_file(self.path / "run.json") as partial:
            partial.write_text(json.dumps({**self.manifest(), **facts}, indent=2) + "\n")

    def _write_manifest(self) -> None:
        starts = [*self.manifest().get("starts", []), time.strftime("%Y-%m-%dT%H:%M:%S%z")]
        self.remember(
            starts=starts,
            command=sys.argv,
            git_sha=git_sha(),
            python=platform.python_version(),
            platform=platform.platform(),
            cpu_threads=torch.get_num_threads(),
            ranks=ranks(),
            packages={name: version(name) for name in PACKAGES},
        )


def holds_run(path: Path, config: Section) -> bool:
    """Whether a folder holds a run of this configuration. Raises `UserError` if it holds one of another."""
    saved = path / "config.yaml"
    if not saved.exists():
        return False
    changed = differences(load_config(type(config), saved), config)
    if changed:
        raise UserError(
            f"{path} holds a run with another configuration ({'; '.join(changed)}): "
            "give this one another run.name, or delete that folder"
        )
    return True


def git_sha() -> str:
    """The checkout's commit, with `-dirty` where files differ from it; `unknown` outside a checkout."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()
