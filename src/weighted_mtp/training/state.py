"""The training state: everything that a resume needs, nothing else; and its checkpoints."""

import shutil
import warnings
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from transformers import PreTrainedModel

from weighted_mtp.errors import UserError
from weighted_mtp.files import check_files, partial_name, whole_directory
from weighted_mtp.manifest import MANIFEST, read_manifest, write_manifest
from weighted_mtp.models.checkpoint import checkpoints_in, first_line
from weighted_mtp.progress import console
from weighted_mtp.runtime.distributed import by_first_rank, is_first, together
from weighted_mtp.runtime.sharding import WholeModel
from weighted_mtp.value_weighting.base import WeightingState

SaveModel = Callable[[PreTrainedModel, Path], None]

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
        """Write trainable parameters, optimizer, objective state and step to `directory`: DCP, all ranks together.

        What is written on so many ranks loads on any other number. Raises OSError where one of them cannot write.
        """
        try:
            with warnings.catch_warnings(action="ignore"):  # DCP's, of one process, that there is no process group
                dcp_save(self._contents(), checkpoint_id=directory)
        except CheckpointException as error:  # which is no Exception, and holds those of all ranks
            raise OSError(str(error).strip().splitlines()[-1]) from error

    def load(self, directory: Path) -> None:
        """Take over a saved state. Raises `UserError` where it is truncated or belongs to another model."""
        contents = self._contents()
        try:
            with warnings.catch_warnings(action="ignore"):  # as in save
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
    """The checkpoints of a run, `step-00000100/{model,state,manifest.json}`: each is there whole or not at all.

    Written under a hidden name by all ranks together, described (size and SHA-256 of every file), synced, renamed.
    """

    def __init__(self, directory: Path, whole: WholeModel, save_model: SaveModel, keep: int) -> None:
        """
        whole       gathers the model that is written, on the first rank; see `runtime.sharding`
        save_model  writes it to a folder
        """
        self.directory, self.whole, self.save_model, self.keep = directory, whole, save_model, keep

    def save(self, state: TrainState) -> Path:
        """Write the checkpoint of `state.step`, then delete all but the newest `keep`.

        Raises `UserError` on all ranks where one of them cannot write; the checkpoints before it are still there then.
        """
        path = self.directory / f"step-{state.step:08d}"
        try:
            self._write(state, path)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{path}: this checkpoint could not be written ({first_line(error)}); those before it are kept: free "
                "some space, and the same command goes on from the newest"
            ) from error
        if is_first():
            for old in checkpoints_in(self.directory)[: -self.keep]:
                shutil.rmtree(old)
        return path

    def _write(self, state: TrainState, path: Path) -> None:
        model = self.whole()
        folder = whole_directory(path) if is_first() else nullcontext(partial_name(path))
        with together(), ExitStack() as opened:
            with together():
                partial = opened.enter_context(folder)
                if model is not None:
                    self.save_model(model, partial / "model")
            del model
            state.save(partial / "state")
            with together():
                if is_first():
                    write_manifest(partial, {"step": state.step})

    def resume(self, state: TrainState) -> bool:
        """Load the newest checkpoint that is as it was written, if there is one.

        A damaged one is told of, set aside as `damaged-step-…`, and the one before it taken. Raises `UserError` where
        all are damaged, or belong to another model.
        """
        found = by_first_rank(self._newest_undamaged)
        if found is not None:
            state.load(found / "state")
        return found is not None

    def _newest_undamaged(self) -> Path | None:
        for path in reversed(checkpoints_in(self.directory)):
            try:
                _check(path)
                return path
            except UserError as error:
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                console.print(f"DAMAGED CHECKPOINT: {error}; it is {aside} now, and not used", highlight=False)
        if any(self.directory.glob("damaged-step-*")):
            raise UserError(
                f"{self.directory}: all checkpoints are damaged: to begin anew, delete {self.directory.parent}"
            )
        return None


def _check(checkpoint: Path) -> None:
    manifest = read_manifest(checkpoint)
    if manifest is None:
        raise UserError(f"{checkpoint / MANIFEST} is missing")
    check_files(checkpoint, manifest["files"])
