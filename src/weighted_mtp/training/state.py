"""The training state: everything that a resume needs, nothing else; and its checkpoints."""

import json
import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from weighted_mtp.errors import UserError
from weighted_mtp.files import whole_directory
from weighted_mtp.models.checkpoint import checkpoints_in
from weighted_mtp.value_weighting.base import WeightingState

VALIDATION = "validation.json"
TRAINED_ONLY = StateDictOptions(ignore_frozen_params=True, strict=False)


@dataclass
class TrainState:
    """What a step changes.

    Batches and random numbers are functions of (seed, step), so the step stands for both.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    objective: WeightingState
    step: int = 0

    def save(self, directory: Path) -> None:
        """Write trainable parameters, optimizer, objective state and step to `directory` (DCP)."""
        with warnings.catch_warnings(action="ignore"):  # DCP says that there is no process group: there is none
            dcp_save(self._contents(), checkpoint_id=directory)

    def load(self, directory: Path) -> None:
        """Take over a saved state. Raises `UserError` where it is truncated or belongs to another model."""
        contents = self._contents()
        try:
            with warnings.catch_warnings(action="ignore"):  # DCP says that there is no process group: there is none
                dcp_load(contents, checkpoint_id=directory)
        except (CheckpointException, Exception) as error:  # DCP's own is no Exception
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"{directory}: not a complete training state of this model ({reason})") from error
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=contents["model"],
            optim_state_dict=contents["optimizer"],
            options=TRAINED_ONLY,
        )
        self.objective = contents["objective"]
        self.step = int(contents["step"])

    def _contents(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer, options=TRAINED_ONLY)
        step = torch.tensor(self.step)
        return {"model": model, "optimizer": optimizer, "objective": dict(self.objective), "step": step}


@dataclass(frozen=True)
class Best:
    """By which validation metric a checkpoint is the best."""

    metric: str
    mode: Literal["min", "max"]

    def score(self, checkpoint: Path) -> float | None:
        """Higher is better; None for a checkpoint that was saved without a validation, or whose metric is NaN."""
        file = checkpoint / VALIDATION
        value = json.loads(file.read_text()).get(self.metric, math.nan) if file.is_file() else math.nan
        return None if math.isnan(value) else value if self.mode == "max" else -value


class Checkpoints:
    """The checkpoints of a run, `step-00000100/{model,state}`: each is there whole or not at all.

    One that was saved with its validation has it in `validation.json`; `best` links to the best of these.

    save_model  writes the `model` folder of a checkpoint
    keep        how many of the newest stay; the best one stays beside them
    """

    def __init__(
        self, directory: Path, save_model: Callable[[Path], None], keep: int, best: Best | None = None
    ) -> None:
        self.directory, self.save_model, self.keep, self.best = directory, save_model, keep, best

    def check(self, validation: Mapping[str, float]) -> None:
        """Raise `UserError` where a validation lacks the metric by which the best checkpoint is told."""
        if self.best is not None and self.best.metric not in validation:
            raise UserError(
                f"training.best_metric={self.best.metric} is no metric of the validation: "
                f"use one of {', '.join(validation)}"
            )

    def save(self, state: TrainState, validation: Mapping[str, float] | None = None) -> Path:
        """Write the checkpoint of `state.step`, then delete all that are neither among the newest nor the best."""
        path = self.directory / f"step-{state.step:08d}"
        with whole_directory(path) as partial:
            self.save_model(partial / "model")
            state.save(partial / "state")
            if validation is not None:
                (partial / VALIDATION).write_text(json.dumps(validation, indent=2) + "\n")
        there = checkpoints_in(self.directory)
        best = self._link_best(there)
        for old in there[: -self.keep]:
            if old != best:
                shutil.rmtree(old)
        return path

    def _link_best(self, there: Sequence[Path]) -> Path | None:
        """Let `best` point at the best checkpoint, the earlier of equals."""
        if self.best is None:
            return None
        scores = {path: score for path in there if (score := self.best.score(path)) is not None}
        if not scores:
            return None
        best = max(scores, key=lambda path: scores[path])
        link = self.directory / ".best.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(best.name)
        link.replace(self.directory / "best")
        return best
