"""Checkpoints that ranks write while they train: what they would have written at once, or nothing."""

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
from group import run_group, values
from runs import Case, disturbed, prepare, records, start_of, train

from weighted_mtp.models.checkpoint import checkpoints_in
from weighted_mtp.training import state
from weighted_mtp.training.loop import Trainer

OPTIONS = ["training.save_every=2", "training.save_total_limit=9", "training.save_in_background=true"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    prepare(folder)
    return folder


def case(storage: Path, name: str, *more: str) -> Case:
    return "baseline", name, [*start_of(storage, "baseline"), "training.max_steps=6", *OPTIONS, *more]


def contents(run: Path) -> dict[str, str]:
    """Digests of the files of all checkpoints but DCP's index, which holds names of its own making."""
    files = (file for checkpoint in checkpoints_in(run / "checkpoints") for file in checkpoint.rglob("*"))
    named = ((str(file.relative_to(run)), file) for file in files if file.suffix in (".distcp", ".safetensors"))
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in named}


def slowly(storage: Path, *case: Any) -> tuple[Path | None, list[int]]:
    """A run whose checkpoints are complete only when the next step is done; and which checkpoints these were."""
    describe, step_of = state._describe, Trainer._step
    done, waited = list[float](), list[int]()

    def waiting(checkpoint: Path, step: int, *more: Any) -> None:
        if step < 6:
            while len(done) <= step:
                time.sleep(0.01)
            waited.append(step)
        describe(checkpoint, step, *more)

    def step(self: Trainer) -> Any:
        values = step_of(self)
        done.append(values["loss"])
        return values

    state._describe, Trainer._step = waiting, step  # type: ignore[method-assign]
    return train(storage, *case), waited


@pytest.mark.parametrize("parallel", ["full", "ddp"])
def test_what_is_written_while_training_goes_on_is_what_is_written_at_once(storage: Path, parallel: str) -> None:
    one, other = (case(storage, f"{name} {parallel}", f"runtime.parallel={parallel}") for name in ("at once", "later"))
    at_once = (one[0], one[1], [*one[2], "training.save_in_background=false"])
    values(run_group(2, train, storage, *at_once))
    (_, waited), _ = values(run_group(2, slowly, storage, *other))
    assert waited == [2, 4]
    runs = [storage / "runs" / name for _, name, _ in (at_once, other)]
    assert records(runs[0]) == records(runs[1])
    assert len(checkpoints_in(runs[1] / "checkpoints")) == 3
    assert contents(runs[0]) == contents(runs[1])


@pytest.mark.parametrize("what", ["not finite", "terminated"])
def test_a_run_that_ends_early_keeps_what_is_being_written(storage: Path, what: str) -> None:
    ends = run_group(2, disturbed, storage, case(storage, f"ended, {what}"), what, 1, 2)
    assert all(end.error is None or "NonFiniteError" in end.error for end in ends), [end.error for end in ends]
    there = checkpoints_in(storage / "runs" / f"ended, {what}" / "checkpoints")
    assert next(path.name for path in there) == "step-00000002"
    values(run_group(2, train, storage, *case(storage, f"ended, {what}")))
    assert records(storage / "runs" / f"ended, {what}")[-1]["step"] == 6


def test_a_full_disk_is_one_line_on_all_ranks_and_leaves_no_half_checkpoint(storage: Path) -> None:
    ends = run_group(2, disturbed, storage, case(storage, "full"), "full disk", 0, 1)
    assert all(end.error is not None and "Error" in end.error for end in ends)
    assert any("the disk is full" in str(end.error) for end in ends)
    assert [*(storage / "runs" / "full" / "checkpoints").iterdir()] == []
