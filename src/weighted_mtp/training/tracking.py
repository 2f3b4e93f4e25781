"""What a run leaves behind: resolved config, manifest, `metrics.jsonl`, and the same in MLflow."""

import json
import logging
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from filelock import FileLock

from weighted_mtp.config import load_config, save_config
from weighted_mtp.errors import UserError, first_line
from weighted_mtp.extras import has, install
from weighted_mtp.files import atomic_file
from weighted_mtp.progress import console
from weighted_mtp.runtime.distributed import agree, by_first_rank, is_first, ranks
from weighted_mtp.section import Section, differences, flatten

Record = dict[str, Any]
"""One line of `metrics.jsonl`: `step`, `split`, and values by their names."""

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "numpy", "weighted-mtp")


class MLflowConfig(Section):
    """Experiment tracking; `docs/MLFLOW.md` shows its pages."""

    enabled: bool = True
    """Whether the run is tracked by MLflow, beside its own `metrics.jsonl`."""
    tracking_uri: str = "sqlite:///storage/mlflow.db"
    """Database or server that MLflow writes to."""
    experiment: str = "weighted-mtp"
    """MLflow's experiment, under which runs are listed."""


class RunDirectory:
    """A run's folder: `config.yaml`, `run.json`, `metrics.jsonl`, `checkpoints/`."""

    def __init__(self, path: Path, config: Section) -> None:
        """Create the folder, or take it over if it holds the same configuration; only the first rank writes.

        Raises `UserError` if it holds another: a resumed run must be the run it resumes.
        """
        self.path, self.config = path, config
        by_first_rank(self._take)

    def _take(self) -> None:
        if not holds_run(self.path, self.config):
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path / "config.yaml") as partial:
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
        with atomic_file(self.path / "run.json") as partial:
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
    """Whether a folder holds a run of this configuration. Raises `UserError` if it holds one of another."""
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
    """Writes each record to `metrics.jsonl` at once, and to MLflow if that is enabled; only on the first rank.

    The file is the truth: while MLflow's server is away the run says so once, continues, and sends what is missing as
    soon as the server is back; what could not be sent by the end stays in the file.
    """

    def __init__(self, run: RunDirectory, mlflow: MLflowConfig, first_step: int) -> None:
        self.run = run
        with agree():
            self._mlflow = self._open(mlflow, first_step) if is_first() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mlflow is not None:
            self._mlflow.close("FAILED" if kind else "FINISHED")

    def log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One record: `step` counts finished optimizer steps; `split` is train or validation."""
        if not is_first():
            return
        record = {"step": step, "split": split, **values}
        with self.run.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._mlflow is not None:
            self._mlflow.log(record)

    def checkpoint(self, path: Path) -> None:
        """Record where the newest checkpoint lies."""
        if self._mlflow is not None:
            self._mlflow.tag("checkpoint", str(path))

    def _open(self, mlflow: MLflowConfig, first_step: int) -> "_MLflowRun | None":
        records = self._drop_records_after(first_step)
        if mlflow.enabled and not has("mlflow"):
            console.print(
                f"the run is in {self.run.metrics}, not in MLflow: {install('mlflow')}, or mlflow.enabled=false",
                markup=False,
                soft_wrap=True,
            )
            known = self.run.manifest()
            sent = known.get("mlflow_records", len(records) if "mlflow_run_id" in known else 0)
            self.run.remember(mlflow_records=sent)  # a resume with MLflow sends the others
            return None
        return _MLflowRun(self.run, mlflow, records) if mlflow.enabled else None

    def _drop_records_after(self, step: int) -> list[Record]:
        """The records that stay: a run killed after its last checkpoint repeats some steps, whose earlier records are
        dropped."""
        if not self.run.metrics.exists():
            return []
        kept = []
        for line in self.run.metrics.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # killed in mid-line
                break
            if record["step"] <= step and step > 0:  # at step 0 nothing is resumed: it is validated again, too
                kept.append(record)
        with atomic_file(self.run.metrics) as partial:
            partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
        return kept


class _MLflowRun:
    """A run in MLflow: behind `metrics.jsonl` while the server is away, and catching up once it is back.

    How many records MLflow has stands in `run.json` as `mlflow_records` while it lacks some, so that a resumed run
    sends them. Importing MLflow takes seconds, so it waits until it is wanted.
    """

    def __init__(self, run: RunDirectory, config: MLflowConfig, records: Sequence[Record]) -> None:
        """
        records  what `metrics.jsonl` holds at the start

        Raises `UserError` if the tracking URI is wrong, and not where its server does not answer.
        """
        for name, value in _MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would report each retry
        self._run, self._config = run, config
        self._id: str | None = None
        self._tags = {"git_sha": git_sha(), "run_directory": str(run.path)}
        known = run.manifest()
        sent = known.get("mlflow_records")
        self._is_noted = sent is not None  # that it lacks some
        if sent is None:
            sent = len(records) if "mlflow_run_id" in known else 0
        self._sent, self._unsent = min(sent, len(records)), list(records[sent:])
        self._away, self._pause, self._next_try = False, _FIRST_PAUSE, 0.0
        with warnings.catch_warnings(action="ignore"):
            from mlflow.exceptions import MlflowException
        try:
            self._catch_up()
        except (MlflowException, ImportError, OSError) as error:
            if not _is_away(config.tracking_uri, error):
                raise UserError(
                    f"mlflow.tracking_uri={config.tracking_uri}: {first_line(error)}; "
                    "give a reachable one, or mlflow.enabled=false"
                ) from error
            self._fall_behind(error)

    def log(self, record: Record) -> None:
        self._unsent.append(record)
        self._send()

    def tag(self, key: str, value: str) -> None:
        self._tags[key] = value
        self._send()

    def close(self, status: str) -> None:
        self._next_try = 0.0
        self._send()
        if not self._away and self._id is not None:
            try:
                self._client.set_terminated(self._id, status)
            except Exception as error:
                self._fall_behind(error)
        elif self._unsent:
            console.print(
                f"{len(self._unsent)} records could not be sent to MLflow; they are in {self._run.metrics}",
                soft_wrap=True,
            )

    def _send(self) -> None:
        if time.monotonic() < self._next_try:
            return
        try:
            self._catch_up()
        except Exception as error:  # whatever MLflow's stores raise: tracking must not end a run
            self._fall_behind(error)

    def _catch_up(self) -> None:
        """Send all that MLflow does not have yet, in batches that it takes."""
        if self._id is None:
            self._open()
        assert self._id is not None
        while self._unsent:
            share = max(1, _BATCH // max(len(record) for record in self._unsent))
            batch = self._unsent[:share]
            self._client.log_batch(self._id, metrics=_metrics(batch))
            del self._unsent[:share]
            self._sent += len(batch)
        for key in list(self._tags):
            self._client.set_tag(self._id, key, self._tags[key])
            del self._tags[key]
        if self._away:
            console.print("MLflow is back and has all records")
        if self._is_noted:
            self._run.remember(mlflow_records=None)
        self._is_noted, self._away, self._pause = False, False, _FIRST_PAUSE

    def _fall_behind(self, error: Exception) -> None:
        if not self._away:
            console.print(
                f"MLflow does not answer ({type(error).__name__}: {first_line(error)[:200]}); the run continues, and "
                "sends it later what is in metrics.jsonl",
                markup=False,
                soft_wrap=True,
            )
        self._run.remember(mlflow_records=self._sent)
        self._is_noted = True
        self._away, self._next_try, self._pause = True, time.monotonic() + self._pause, 2 * self._pause

    def _open(self) -> None:
        """Find or make the run, with its parameters and its configuration."""
        with warnings.catch_warnings(action="ignore"):
            from mlflow import MlflowClient
            from mlflow.entities import Param
        with _alone_in(self._config.tracking_uri):
            self._client = MlflowClient(tracking_uri=self._config.tracking_uri)
            run_id = self._find_or_create()
        logged = self._client.get_run(run_id).data.params  # by an earlier start, and MLflow lets none be changed
        parameters = [Param(k, str(v)[:500]) for k, v in flatten(self._run.config).items() if k not in logged]
        for start in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(run_id, params=parameters[start : start + _PARAMETERS])
        self._log_config(run_id)
        self._id = run_id

    def _log_config(self, run_id: str) -> None:
        """Many a server takes metrics, and keeps its artifacts in a place that a client cannot write."""
        try:
            self._client.log_artifact(run_id, str(self._run.path / "config.yaml"))
        except Exception as error:
            console.print(
                f"MLflow takes no artifacts ({type(error).__name__}: {first_line(error)[:200]}); config.yaml is in "
                f"{self._run.path}",
                markup=False,
                soft_wrap=True,
            )

    def _find_or_create(self) -> str:
        known = self._run.manifest().get("mlflow_run_id")
        if known:
            self._client.update_run(known, status="RUNNING")
            return str(known)
        name = self._config.experiment
        experiment = self._client.get_experiment_by_name(name)
        identity = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(name, _artifacts(self._config.tracking_uri))
        )
        run_id = str(self._client.create_run(identity, run_name=self._run.path.name).info.run_id)
        self._run.remember(mlflow_run_id=run_id)
        return run_id


_MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output holds results only
    # MLflow's own patience is minutes, in which a step would wait; here what fails is sent later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
_FIRST_PAUSE = 30.0  # seconds between tries while a server is away; each pause is twice the one before
_BATCH, _PARAMETERS = 1000, 100  # metrics and parameters that MLflow takes at once


def _metrics(records: Sequence[Record]) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [
        Metric(f"{record['split']}/{name}", value, now, record["step"])
        for record in records
        for name, value in record.items()
        if name not in ("step", "split")
    ]


def _is_away(tracking_uri: str, error: Exception) -> bool:
    """Whether a server did not answer, or not yet, rather than refused what it was sent."""
    status = getattr(error, "get_http_status_code", lambda: 500)()
    return tracking_uri.startswith(("http://", "https://")) and (status >= 500 or status == 429)


def _database(tracking_uri: str) -> Path | None:
    """The file of a database on disk; None for a server."""
    return Path(tracking_uri.removeprefix("sqlite:///")) if tracking_uri.startswith("sqlite:///") else None


def _artifacts(tracking_uri: str) -> str | None:
    """Where an experiment keeps its artifacts, each run's in a folder of its own: beside a database, or where a server
    says. Not in a run's folder: MLflow knows one place for all runs of an experiment."""
    database = _database(tracking_uri)
    return None if database is None else database.with_name(f"{database.stem}-artifacts").resolve().as_uri()


@contextmanager
def _alone_in(tracking_uri: str) -> Iterator[None]:
    """Hold off other runs while this one opens a database file: MLflow makes its tables, and an experiment, unguarded,
    so that of two first runs at one moment the second would fail. A killed run's lock is gone with it."""
    database = _database(tracking_uri)
    if database is None:
        yield
        return
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
