"""What a run leaves behind: resolved config, manifest, `metrics.jsonl`, and the same in MLflow."""

import json
import logging
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from filelock import FileLock

from weighted_mtp.config import Section, differences, flatten, load_config, save_config
from weighted_mtp.errors import UserError
from weighted_mtp.files import whole_file
from weighted_mtp.progress import console
from weighted_mtp.runtime.distributed import by_first_rank, is_first, ranks, together

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "numpy", "weighted-mtp")


class MLflowConfig(Section):
    """Experiment tracking; `docs/MLFLOW.md` shows its pages."""

    enabled: bool = True
    tracking_uri: str = "sqlite:///storage/mlflow.db"
    experiment: str = "weighted-mtp"


class RunDirectory:
    """A run's folder: `config.yaml`, `run.json`, `metrics.jsonl`, `checkpoints/`."""

    def __init__(self, path: Path, config: Section) -> None:
        """Create the folder, or take it over where it holds the same configuration; the first rank alone writes.

        Raises `UserError` where it holds another: a resumed run must be the run it resumes.
        """
        self.path, self.config = path, config
        by_first_rank(self._take)

    def _take(self) -> None:
        if not holds_run(self.path, self.config):
            self.path.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path / "config.yaml") as partial:
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
        with whole_file(self.path / "run.json") as partial:
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
    """Whether a folder holds a run of this configuration. Raises `UserError` where it holds one of another."""
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


class Tracker:
    """Writes each record to `metrics.jsonl` at once, and to MLflow where that is enabled; on the first rank alone.

    The file is the truth: when MLflow fails during a run (a server is lost), the run says so once and goes on.
    """

    def __init__(self, run: RunDirectory, mlflow: MLflowConfig, first_step: int) -> None:
        self.run = run
        with together():
            self._mlflow = self._open(mlflow, first_step) if is_first() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._to_mlflow("close", "FAILED" if kind else "FINISHED")

    def log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One record: `step` counts finished optimizer steps; `split` is train or validation."""
        if not is_first():
            return
        with self.run.metrics.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        self._to_mlflow("log", step, {f"{split}/{name}": value for name, value in values.items()})

    def checkpoint(self, path: Path) -> None:
        """Record where the newest checkpoint lies."""
        self._to_mlflow("tag", "checkpoint", str(path))

    def _to_mlflow(self, method: str, *arguments: Any) -> None:
        if self._mlflow is None:
            return
        try:
            getattr(self._mlflow, method)(*arguments)
        except Exception as error:
            console.print(f"MLflow failed and is off for the rest of this run ({type(error).__name__}: {error})")
            self._mlflow = None

    def _open(self, mlflow: MLflowConfig, first_step: int) -> "_MLflowRun | None":
        self._drop_records_after(first_step)
        return _MLflowRun(self.run, mlflow) if mlflow.enabled else None

    def _drop_records_after(self, step: int) -> None:
        """A run killed after its last checkpoint repeats some steps: their first records go."""
        if not self.run.metrics.exists():
            return
        kept = []
        for line in self.run.metrics.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # killed in mid-line
                break
            if record["step"] <= step and step > 0:  # at step 0 nothing is resumed: it is validated again, too
                kept.append(line)
        with whole_file(self.run.metrics) as partial:
            partial.write_text("".join(line + "\n" for line in kept))


class _MLflowRun:
    """The part of MLflow that a run uses. Importing MLflow takes seconds, so it waits until it is wanted."""

    def __init__(self, run: RunDirectory, config: MLflowConfig) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        with warnings.catch_warnings(action="ignore"):
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
            from mlflow.exceptions import MlflowException
        self._metric = Metric
        try:
            with _alone_in(config.tracking_uri):
                self.client = MlflowClient(tracking_uri=config.tracking_uri)
                self.run_id = self._open(run, config)
            parameters = [Param(key, str(value)[:500]) for key, value in flatten(run.config).items()]
            self.client.log_batch(self.run_id, params=parameters)
        except MlflowException as error:
            raise UserError(
                f"mlflow.tracking_uri={config.tracking_uri}: {str(error).splitlines()[0]}; "
                "give a reachable one, or mlflow.enabled=false"
            ) from error
        self.client.log_artifact(self.run_id, str(run.path / "config.yaml"))
        self.tag("git_sha", git_sha())
        self.tag("run_directory", str(run.path))

    def _open(self, run: RunDirectory, config: MLflowConfig) -> str:
        known = run.manifest().get("mlflow_run_id")
        if known:
            self.client.update_run(known, status="RUNNING")
            return str(known)
        experiment = self.client.get_experiment_by_name(config.experiment)
        artifacts = (run.path / "mlflow").resolve().as_uri() if config.tracking_uri.startswith("sqlite:") else None
        identity = (
            experiment.experiment_id if experiment else self.client.create_experiment(config.experiment, artifacts)
        )
        run_id = str(self.client.create_run(identity, run_name=run.path.name).info.run_id)
        run.remember(mlflow_run_id=run_id)
        return run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[self._metric(k, v, now, step) for k, v in values.items()])

    def tag(self, key: str, value: str) -> None:
        self.client.set_tag(self.run_id, key, value)

    def close(self, status: str) -> None:
        self.client.set_terminated(self.run_id, status)


@contextmanager
def _alone_in(tracking_uri: str) -> Iterator[None]:
    """Hold off other runs while this one opens a database file: MLflow makes its tables, and an experiment, unguarded,
    so that of two first runs at one moment the second would fail. A killed run's lock is gone with it."""
    if not tracking_uri.startswith("sqlite:///"):
        yield
        return
    database = Path(tracking_uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_name(f".{database.name}.lock")):
        yield


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
