"""Tracking by several runs at a time, and by one whose MLflow server is away."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import create_model

from weighted_mtp.errors import UserError
from weighted_mtp.section import Section
from weighted_mtp.training import tracking
from weighted_mtp.training.tracking import MLflowConfig, RunDirectory, Tracker

NO_SERVER = MLflowConfig(tracking_uri="http://127.0.0.1:9")

RUN = """
import sys
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store  # it takes seconds: ahead of the start, or the runs would not meet
from weighted_mtp.config import Section
from weighted_mtp.training.tracking import MLflowConfig, RunDirectory, Tracker

storage, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
config = MLflowConfig(tracking_uri=f"sqlite:///{storage}/mlflow.db")
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


def database(folder: Path) -> MLflowConfig:
    return MLflowConfig(tracking_uri=f"sqlite:///{folder}/mlflow.db")


def losses_in(config: MLflowConfig, run: RunDirectory) -> list[tuple[int, float]]:
    client = MlflowClient(tracking_uri=config.tracking_uri)
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
        monkeypatch.setattr(tracking, "_BATCH", 6)
        tracker._mlflow._next_try = 0.0
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
        Tracker(RunDirectory(tmp_path / "run", Section()), MLflowConfig(tracking_uri=uri), 0)


def test_parameters_are_those_of_the_first_start(tmp_path: Path) -> None:
    """MLflow lets none be changed, and a resume may have changed one on purpose."""
    fields = {f"option_{i}": (int, i) for i in range(230)}
    many = create_model("Many", __base__=Section, **fields)
    run = RunDirectory(tmp_path / "run", many())
    for number in (1, 2):
        run.config = many(option_0=number)
        with Tracker(run, database(tmp_path), 0):
            pass
    client = MlflowClient(tracking_uri=database(tmp_path).tracking_uri)
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


def _unreachable() -> None:
    raise MlflowException("no route to the server")
