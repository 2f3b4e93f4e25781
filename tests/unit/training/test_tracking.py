"""Tracking by several runs at a time."""

import subprocess
import sys
from pathlib import Path

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
