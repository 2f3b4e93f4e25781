"""The training state: everything that a resume needs, nothing else; and its checkpoints."""

import errno
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import distributed as dist
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from transformers import PreTrainedModel

from weighted_mtp.errors import UserError, first_line
from weighted_mtp.files import atomic_directory, check_files, partial_name
from weighted_mtp.manifest import named_files, write_manifest
from weighted_mtp.models.checkpoint import checkpoints_in
from weighted_mtp.progress import console
from weighted_mtp.runtime.distributed import agree, any_rank, by_first_rank, is_first
from weighted_mtp.runtime.sharding import WholeModel
from weighted_mtp.value_weighting.base import ObjectiveState

VALIDATION = "validation.json"
SaveModel = Callable[[PreTrainedModel, Path], None]

TRAINED_ONLY = StateDictOptions(ignore_frozen_params=True, strict=False)


@dataclass
class TrainState:
    """What a step changes.

    Batches and random numbers are functions of (seed, step), so the step stands for both.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    objective: ObjectiveState
    step: int = 0

    def save(self, directory: Path) -> None:
        """Write trainable parameters, optimizer, objective state and step to `directory`: DCP, all ranks together.

        What any number of ranks wrote loads on any other. Raises OSError if one of them cannot write.
        """
        with _os_errors(), warnings.catch_warnings(action="ignore"):  # of one process: that there is no process group
            dcp_save(self._contents(), checkpoint_id=directory)

    def save_in_background(self, directory: Path, group: ProcessGroup) -> "Future[Any]":
        """The same of a copy of this rank's part, which is written while training continues.

        group  of all ranks, by which nothing else communicates meanwhile
        """
        writing = async_save(self._contents(), checkpoint_id=directory, process_group=group)
        return cast("Future[Any]", writing)  # another type only if its stager is asynchronous, too

    def load(self, directory: Path) -> None:
        """Take over a saved state. Raises `UserError` if it is truncated or belongs to another model."""
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


@contextmanager
def _os_errors() -> Iterator[None]:
    """OSError for what DCP raises, which is no Exception and holds the errors of all ranks."""
    try:
        yield
    except CheckpointException as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error


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


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that is being written while training continues.

    folder   open as long as it is; on success it gets its name
    written  on the first rank done when every rank's files and the manifest are there, on the others when their own are
    """

    path: Path
    folder: ExitStack
    written: "Future[Any]"


class Checkpoints:
    """The checkpoints of a run, `step-00000100/{model,state,manifest.json}`: each is there whole or not at all.

    Written under a hidden name by all ranks together, described (size and SHA-256 of every file), synced, renamed.
    One that was saved with its validation has it in `validation.json`; `best` links to the best of these.
    """

    def __init__(
        self,
        directory: Path,
        whole: WholeModel,
        save_model: SaveModel,
        keep: int,
        best: Best | None = None,
        saved: Callable[[], None] = lambda: None,
        in_background: bool = False,
    ) -> None:
        """
        whole          gathers the model that is written, on the first rank; see `runtime.sharding`
        save_model     writes it to a folder
        keep           how many of the newest stay; the best one stays beside them
        saved          called by the first rank after each checkpoint
        in_background  let training continue while a checkpoint is written; needs several ranks
        """
        self.directory, self.whole, self.save_model = directory, whole, save_model
        self.keep, self.best, self.saved = keep, best, saved
        self._group = dist.new_group(backend="gloo") if in_background else None
        self._writer = ThreadPoolExecutor(1, "checkpoint") if in_background else None
        self._pending: _Pending | None = None

    def check(self, validation: Mapping[str, float]) -> None:
        """Raise `UserError` if a validation lacks the metric that decides which checkpoint is best."""
        if self.best is not None and self.best.metric not in validation:
            raise UserError(
                f"training.best_metric={self.best.metric} is no metric of the validation: "
                f"use one of {', '.join(validation)}"
            )

    def save(self, state: TrainState, validation: Mapping[str, float] | None = None) -> Path | None:
        """Write the checkpoint of `state.step`, then delete all that are neither among the newest nor the best.

        Returns the newest checkpoint that is complete: this one, or in the background the one before, which is waited
        for; None if there is none yet. Raises `UserError` on all ranks if one of them cannot write; the checkpoints
        before are still there then.
        """
        before = self.finish()
        path = self.directory / f"step-{state.step:08d}"
        with _user_errors(path):
            if self._group is not None:
                self._pending = self._begin(state, path, validation, self._group)
                return before
            self._write(state, path, validation)
        return self._completed(path)

    def finish_if_written(self) -> Path | None:
        """`finish` if nothing is left to wait for; all ranks must call it."""
        if self._pending is None or any_rank(not self._pending.written.done()):
            return None
        return self.finish()

    def finish(self) -> Path | None:
        """Wait for the checkpoint that is being written and give it its name; None if there is none. Raises as
        `save`; all ranks must call it."""
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        with _user_errors(pending.path), agree(), pending.folder, agree(), _os_errors():
            pending.written.result()
        return self._completed(pending.path)

    def _completed(self, path: Path) -> Path:
        if is_first():
            there = checkpoints_in(self.directory)
            best = self._link_best(there)
            for old in there[: -self.keep]:
                if old != best:
                    shutil.rmtree(old)
            self.saved()
        return path

    def _begin(
        self, state: TrainState, path: Path, validation: Mapping[str, float] | None, group: ProcessGroup
    ) -> _Pending:
        """Copy what is to be written, and write it in threads."""
        assert self._writer is not None
        model = self.whole()
        if model is not None:  # on a CPU, parameters that no rank shares are those that training moves
            for parameter in model.parameters():
                parameter.data = parameter.data.clone() if parameter.device.type == "cpu" else parameter.data
        opened, partial = ExitStack(), partial_name(path)
        with agree():
            if is_first():
                opened.enter_context(atomic_directory(path))
        written, step = state.save_in_background(partial / "state", group), state.step

        def describe() -> None:
            try:
                if model is not None:
                    self.save_model(model, partial / "model")
            finally:
                written.result()  # of the first rank: when all have written
            _describe(partial, step, validation)

        return _Pending(path, opened, self._writer.submit(describe) if is_first() else written)

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

    def _write(self, state: TrainState, path: Path, validation: Mapping[str, float] | None) -> None:
        model = self.whole()
        folder = atomic_directory(path) if is_first() else nullcontext(partial_name(path))
        with agree(), ExitStack() as opened:
            with agree():
                partial = opened.enter_context(folder)
                if model is not None:
                    self.save_model(model, partial / "model")
            del model
            state.save(partial / "state")
            with agree():
                if is_first():
                    _describe(partial, state.step, validation)

    def resume(self, state: TrainState) -> bool:
        """Load the newest checkpoint that is as it was written, if there is one.

        A damaged one is reported, set aside as `damaged-step-…`, and the one before it taken. Raises `UserError` if
        all are damaged, or belong to another model.
        """
        found = by_first_rank(self._newest_undamaged)
        if found is not None:
            state.load(found / "state")
        return found is not None

    def _newest_undamaged(self) -> Path | None:
        for path in reversed(checkpoints_in(self.directory)):
            try:
                check_files(path, named_files(path))
                return path
            except UserError as error:
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                console.print(f"DAMAGED CHECKPOINT: {error}; it is {aside} now, and not used", highlight=False)
        if any(self.directory.glob("damaged-step-*")):
            raise UserError(
                f"{self.directory}: all checkpoints are damaged: to start over, delete {self.directory.parent}"
            )
        return None


def _describe(checkpoint: Path, step: int, validation: Mapping[str, float] | None) -> None:
    """Write the validation of a checkpoint's step, and last the manifest of all its files."""
    if validation is not None:
        (checkpoint / VALIDATION).write_text(json.dumps(validation, indent=2) + "\n")
    write_manifest(checkpoint, {"step": step})


@contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    """`UserError` for a checkpoint that could not be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = "the disk is full: " if os.strerror(errno.ENOSPC) in str(error) else ""
        raise UserError(
            f"{path}: this checkpoint could not be written ({full}{first_line(error)}); those before it are kept: "
            "fix that, and the same command resumes from the newest"
        ) from error
