"""The training state: everything that a resume needs, nothing else; and its checkpoints."""

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class Checkpoints:
    """The checkpoints of a run, `step-00000100/{model,state}`: each is there whole or not at all."""

    def __init__(self, directory: Path, save_model: Callable[[Path], None], keep: int) -> None:
        self.directory, self.save_model, self.keep = directory, save_model, keep

    def save(self, state: TrainState) -> Path:
        """Write the checkpoint of `state.step`, then delete all but the newest `keep`."""
        path = self.directory / f"step-{state.step:08d}"
        with whole_directory(path) as partial:
            self.save_model(partial / "model")
            state.save(partial / "state")
        for old in checkpoints_in(self.directory)[: -self.keep]:
            shutil.rmtree(old)
        return path
