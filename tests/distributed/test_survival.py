"""What stops one rank stops all of them, in one way; and what was saved goes on, on any number of ranks."""

import json
import shutil
import time
from pathlib import Path

import pytest
from group import CONTEXT, run_group, values
from runs import Case, disturbed, prepare, records, start_of, train, train_all

from weighted_mtp.models.checkpoint import checkpoints_in, step_of

OFTEN = "training.save_every=2"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    prepare(folder)
    return folder


def case(storage: Path, pipeline: str, name: str, *options: str) -> Case:
    return pipeline, name, [*start_of(storage, pipeline), *options]


def saved(storage: Path, name: str) -> list[str]:
    return [path.name for path in (storage / "runs" / name / "checkpoints").iterdir()]


def newest_step(run: Path) -> int:
    return max((step_of(path) for path in checkpoints_in(run / "checkpoints")), default=0)


def test_a_run_that_one_of_two_ranks_stopped_goes_on_on_one_and_on_four(storage: Path) -> None:
    options = ["model.lora={r: 4, alpha: 8}", "weighting.warmup_steps=3"]
    train_all(storage, [case(storage, "verifiable", "whole", *options)])
    whole = records(storage / "runs" / "whole")
    parts = case(storage, "verifiable", "parts", *options)
    assert values(run_group(2, disturbed, storage, parts, "terminated", 1, 4)) == [None, None]
    assert saved(storage, "parts") == ["step-00000005"]
    run, stopped = storage / "runs" / "parts", storage / "stopped"
    shutil.copytree(run, stopped)
    for ranks in (1, 4):
        shutil.rmtree(run)
        shutil.copytree(stopped, run)
        assert values(run_group(ranks, train_all, storage, [parts])) == [[run]] * ranks
        for a, b in zip(whole, records(run), strict=True):
            assert b == {k: v if k == "split" else pytest.approx(v, rel=1e-5, abs=1e-6) for k, v in a.items()}


def test_a_nan_on_one_rank_stops_all_in_that_step_and_names_its_samples(storage: Path) -> None:
    ends = run_group(2, disturbed, storage, case(storage, "baseline", "nan"), "not finite", 1, 2)
    assert [end.error is not None and end.error.startswith("NonFiniteError: step 2: loss nan") for end in ends] == [
        True,
        True,
    ]
    report = json.loads((storage / "runs" / "nan" / "non-finite-step-2.json").read_text())
    assert 0 < len(report["not_finite"]) < len(report["samples"])
    assert set(report["not_finite"]) < set(report["samples"])


def test_a_killed_rank_ends_the_others_with_one_clear_line(storage: Path) -> None:
    first, second = run_group(2, disturbed, storage, case(storage, "baseline", "killed"), "killed", 1, 2)
    assert second.error == "exit code -9"
    assert first.error is not None
    assert first.error.startswith("UserError: another rank is lost: it failed, was killed")


def test_a_disk_that_fills_while_saving_ends_all_ranks_and_keeps_the_older_checkpoints(storage: Path) -> None:
    first, second = run_group(2, disturbed, storage, case(storage, "baseline", "full", OFTEN), "full disk", 0, 3)
    assert first.error is not None
    assert "step-00000004: this checkpoint could not be written" in first.error
    assert "No space left on device" in first.error
    assert second.error == "AnotherRankError: rank 0 failed"
    assert saved(storage, "full") == ["step-00000002"]


def test_ranks_that_cannot_share_a_step_evenly_are_refused(storage: Path) -> None:
    uneven = case(storage, "baseline", "uneven", "training.gradient_accumulation=3")
    for end in run_group(2, train, storage, *uneven):
        assert end.error is not None
        assert "training.gradient_accumulation=3 microbatches of a step cannot be shared evenly by 2" in end.error


def test_a_model_that_the_first_rank_cannot_read_ends_all_ranks(storage: Path) -> None:
    first, second = run_group(2, train, storage, *case(storage, "baseline", "none", "model.source=/no/such/model"))
    assert first.error is not None
    assert first.error.startswith("UserError: /no/such/model: no such path")
    assert second.error == "AnotherRankError: rank 0 failed"


def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(storage: Path) -> None:
    options = ["training.save_every=1", "training.save_total_limit=1"]
    train_all(storage, [case(storage, "baseline", "unkilled", *options)])
    again = case(storage, "baseline", "often killed", *options)
    run = storage / "runs" / "often killed"
    for step, seen in ((0, "metrics.jsonl"), (2, "checkpoints/.step-*.partial"), (3, "checkpoints/step-*")):
        process = CONTEXT.Process(target=train, args=(storage, *again))
        process.start()
        while process.is_alive() and not (any(run.glob(seen)) and newest_step(run) >= step):
            time.sleep(0.001)
        process.kill()
        process.join()
        assert newest_step(run) < 8
    train_all(storage, [again])
    assert records(run) == records(storage / "runs" / "unkilled")
    assert [step_of(path) for path in checkpoints_in(run / "checkpoints")] == [8]
