"""Tracking by several runs at a time, and by one whose MLflow server is away."""

import json
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import create_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from weighted_mtp import extras
from weighted_mtp.errors import UserError
from weighted_mtp.section import Section
from weighted_mtp.training import mlflow_run
from weighted_mtp.training.mlflow_run import MLflowConfig, finish_study
from weighted_mtp.training.run_directory import RunDirectory
from weighted_mtp.training.tracking import Tracked, Tracker
from weighted_mtp.training.wandb_run import WandbConfig

NO_SERVER = Tracked(mlflow=MLflowConfig(tracking_uri="http://127.0.0.1:9"))

RUN = """
import sys
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store  # it takes seconds: ahead of the start, or the runs would not meet
from weighted_mtp.section import Section
from weighted_mtp.training.run_directory import RunDirectory
from weighted_mtp.training.tracking import MLflowConfig, Tracked, Tracker

storage, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
config = Tracked(mlflow=MLflowConfig(tracking_uri=f"sqlite:///{storage}/mlflow.db"))
with Tracker(RunDirectory(storage / name, Section()), config, 0) as tracker:
    tracker.log(1, "train", {"loss": 1.0})
"""
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def test_two_runs_that_start_at_one_moment_share_a_new_database(tmp_path: Path) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", RUN, tmp_path, name], text=True, **PIPES) for name in ("a", "b")]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
    ends = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ends


def database(folder: Path, study: str | None = None) -> Tracked:
    return Tracked(mlflow=MLflowConfig(tracking_uri=f"sqlite:///{folder}/mlflow.db", study=study))


def client_of(config: Tracked) -> MlflowClient:
    return MlflowClient(tracking_uri=config.mlflow.tracking_uri)


def losses_in(config: Tracked, run: RunDirectory) -> list[tuple[int, float]]:
    client = client_of(config)
    return [(m.step, m.value) for m in client.get_metric_history(run.manifest()["mlflow_run_id"], "train/loss")]


def losses_of(run: RunDirectory) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records]


def test_the_artifacts_of_each_run_have_a_folder_of_their_own(tmp_path: Path) -> None:
    runs = [RunDirectory(tmp_path / "runs" / name, Section()) for name in ("first", "second")]
    for run in runs:
        with Tracker(run, database(tmp_path), 0) as tracker:
            tracker.log(1, "train", {"loss": 1.0})
    kept = sorted(file.relative_to(tmp_path).as_posix() for file in (tmp_path / "mlflow-artifacts").rglob("*.yaml"))
    identities = sorted(run.manifest()["mlflow_run_id"] for run in runs)
    assert kept == [f"mlflow-artifacts/{identity}/artifacts/config.yaml" for identity in identities]
    assert not list((tmp_path / "runs").rglob("mlflow"))


def test_a_server_that_is_away_is_one_line_and_a_later_start_sends_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "run", Section())
    with Tracker(run, NO_SERVER, 0) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, "train", {"loss": 1 / step})
        tracker.checkpoint(tmp_path)
    assert [line.split(" (")[0] for line in capsys.readouterr().err.splitlines()] == [
        "MLflow does not answer",
        f"3 records could not be sent to MLflow; they are in {run.metrics}",
    ]
    assert losses_of(run) == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
    with Tracker(run, database(tmp_path), 3) as tracker:
        tracker.log(4, "train", {"loss": 1 / 4})
    assert losses_in(database(tmp_path), run) == losses_of(run)


def test_what_failed_in_mid_run_is_sent_when_the_server_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, tries = RunDirectory(tmp_path / "run", Section()), []
    with Tracker(run, database(tmp_path), 0) as tracker:
        tracker.log(1, "train", {"loss": 1.0})
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", lambda *_, **__: tries.append(1) or _unreachable())
            for step in (2, 3, 4):
                tracker.log(step, "train", {"loss": 1 / step})
        assert len(tries) == 1, "a try costs seconds: one, then a pause"
        assert run.manifest()["mlflow_records"] == 1
        monkeypatch.setattr(mlflow_run, "_BATCH", 6)
        tracker._runs[0]._next_try = 0.0
        tracker.log(5, "train", {"loss": 1 / 5})
    assert losses_in(database(tmp_path), run) == losses_of(run) == [(step, 1 / step) for step in range(1, 6)]
    assert run.manifest()["mlflow_records"] is None
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("MLflow")]
    assert [line.split(" (")[0] for line in said] == ["MLflow does not answer", "MLflow is back and has all records"]


def test_a_run_killed_while_the_server_was_away_sends_the_rest_when_it_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "run", Section())
    killed = Tracker(run, database(tmp_path), 0)
    killed.log(1, "train", {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", lambda *_, **__: _unreachable())
        for step in (2, 3):
            killed.log(step, "train", {"loss": 1 / step})
    with Tracker(run, database(tmp_path), 2) as tracker:
        tracker.log(3, "train", {"loss": 1 / 3})
    assert losses_in(database(tmp_path), run) == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]


@pytest.mark.parametrize("uri", ["nonsense://x", "http:/x", "postgresql://nobody@127.0.0.1:9/x"])
def test_a_tracking_uri_that_is_none_is_one_line(tmp_path: Path, uri: str) -> None:
    with pytest.raises(UserError, match=f"mlflow.tracking_uri={uri}"):
        Tracker(RunDirectory(tmp_path / "run", Section()), Tracked(mlflow=MLflowConfig(tracking_uri=uri)), 0)


def test_parameters_are_those_of_the_first_start(tmp_path: Path) -> None:
    """MLflow lets none be changed, and a resume may have changed one on purpose."""
    fields = {f"option_{i}": (int, i) for i in range(230)}
    many = create_model("Many", __base__=Section, **fields)
    run = RunDirectory(tmp_path / "run", many())
    for number in (1, 2):
        run.config = many(option_0=number)
        with Tracker(run, database(tmp_path), 0):
            pass
    client = client_of(database(tmp_path))
    parameters = client.get_run(run.manifest()["mlflow_run_id"]).data.params
    assert parameters == {**{name: str(value) for name, (_, value) in fields.items()}, "option_0": "1"}


def test_a_server_without_artifacts_gets_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/mlruns")

    monkeypatch.setattr(MlflowClient, "log_artifact", refused)
    run = RunDirectory(tmp_path / "run", Section())
    with Tracker(run, database(tmp_path), 0) as tracker:
        tracker.log(1, "train", {"loss": 1.0})
    assert losses_in(database(tmp_path), run) == [(1, 1.0)]
    assert "MLflow takes no artifacts (PermissionError" in capsys.readouterr().err


def test_runs_of_a_study_lie_below_one_run_which_gets_the_studys_page(tmp_path: Path) -> None:
    config = database(tmp_path, "compared")
    runs = [RunDirectory(tmp_path / "runs" / name, config) for name in ("first", "second")]
    for run in runs:
        with Tracker(run, config, 0) as tracker:
            tracker.log(1, "train", {"loss": 1.0})
    (tmp_path / "page.html").write_text("<p>")
    finish_study([[run.path for run in runs]], tmp_path / "page.html")
    client = client_of(config)
    parents = {client.get_run(run.manifest()["mlflow_run_id"]).data.tags["mlflow.parentRunId"] for run in runs}
    (parent,) = parents
    study = client.get_run(parent)
    assert (study.info.run_name, study.info.status) == ("compared", "FINISHED")
    assert [file.path for file in client.list_artifacts(parent)] == ["page.html"]


def test_a_file_of_the_run_is_an_artifact_in_mlflow(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run", Section())
    (run.path / "page.html").write_text("<p>")
    with Tracker(run, database(tmp_path), 0) as tracker:
        tracker.artifact(run.path / "page.html")
    listed = client_of(database(tmp_path)).list_artifacts(run.manifest()["mlflow_run_id"])
    assert {file.path for file in listed} == {"config.yaml", "page.html"}


def in_tensorboard(run: RunDirectory) -> list[tuple[int, float]]:
    found = EventAccumulator(str(run.path / "tensorboard")).Reload()
    return [(event.step, event.value) for event in found.Scalars("train/loss")]


def test_tensorboard_gets_what_the_file_has_and_repeated_steps_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run", Section())
    with Tracker(run, Tracked(tracking=()), 0) as tracker:
        tracker.log(1, "train", {"loss": 1.0})
    with Tracker(run, Tracked(tracking=("tensorboard",)), 1) as tracker:  # from here on, and what was before
        for step in (2, 3):
            tracker.log(step, "train", {"loss": 1 / step})
    with Tracker(run, Tracked(tracking=("tensorboard",)), 2) as tracker:  # killed after step 3, resumed from step 2
        for step in (3, 4):
            tracker.log(step, "train", {"loss": 1 / step})
    assert in_tensorboard(run) == [(step, float(np.float32(loss))) for step, loss in losses_of(run)]
    assert [step for step, _ in losses_of(run)] == [1, 2, 3, 4]


def in_wandb(run: RunDirectory) -> list[list[Any]]:
    """The records of all starts, read off the logs that `wandb sync` sends, once W&B's own process has ended them."""
    found = []
    for file in sorted(run.path.glob("wandb/offline-run-*/*.wandb")):
        end = time.monotonic() + 60
        while "exit" not in kinds(records := logged(file)) and time.monotonic() < end:
            time.sleep(0.05)
        found += records
    return found


def kinds(records: list[Any]) -> list[str]:
    return [record.WhichOneof("record_type") for record in records]


def logged(file: Path) -> list[Any]:
    """The whole records of a log so far: LevelDB's format, in blocks of 32 KiB."""
    found = []
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:  # too little is left of the block for a header
            at += 2**15 - at % 2**15
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        if at + 7 + size > len(data):
            break  # still being written
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            found.append(record)
            whole = b""
    return found


def test_weights_and_biases_gets_what_the_file_has_in_its_offline_mode(tmp_path: Path) -> None:
    config = Tracked(tracking=("wandb",), wandb=WandbConfig(project="mine", mode="offline"))
    run = RunDirectory(tmp_path / "run", config)
    for first in (1, 3):  # a start, and a resume from step 2
        with Tracker(run, config, first - 1) as tracker:
            for step in (first, first + 1):
                tracker.log(step, "train", {"loss": 1 / step})
    records = in_wandb(run)
    assert kinds(records).count("exit") == 2
    started = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {(start.run_id, start.project) for start in started} == {(run.manifest()["wandb_run_id"], "mine")}
    values = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(value["step"], value["train/loss"]) for value in values] == losses_of(run)
    assert len(losses_of(run)) == 4


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_one_line_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    install = rf"tracking={name}: install {name} with `pip install 'weighted-mtp\[{name}\]'`"
    with pytest.raises(UserError, match=install):
        Tracker(RunDirectory(tmp_path / "run", Section()), Tracked(tracking=(name,)), 0)


@pytest.mark.parametrize(
    ("given", "expected"), [("mlflow,wandb", ("mlflow", "wandb")), ("none", ()), (["tensorboard"], ("tensorboard",))]
)
def test_trackers_are_a_list_or_comma_separated(given: object, expected: tuple[str, ...]) -> None:
    assert Tracked.model_validate({"tracking": given}).tracking == expected


def _unreachable() -> None:
    raise MlflowException("no route to the server")
