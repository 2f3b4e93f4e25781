"""A run in MLflow, nested below its study's."""

import json
import logging
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from weighted_mtp.config import read_options
from weighted_mtp.errors import UserError, first_line
from weighted_mtp.extras import has
from weighted_mtp.progress import say
from weighted_mtp.section import Section, flatten
from weighted_mtp.training.run_directory import Record, RunDirectory, git_sha, values_of


class MLflowConfig(Section):
    """Where MLflow's records of a run go, if `tracking` names it; `docs/MLFLOW.md` shows its pages."""

    tracking_uri: str = "sqlite:///storage/mlflow.db"
    """Database or server that MLflow writes to."""
    experiment: str = "weighted-mtp"
    """MLflow's experiment, under which runs are listed."""
    study: str | None = None
    """A study that the run belongs to: MLflow lists it below a run of that name. `wmtp study` sets it."""


class MLflowRun:
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
                    "give a reachable one, or tracking=none"
                ) from error
            self._fall_behind(error)

    def log(self, record: Record) -> None:
        self._unsent.append(record)
        self._send()

    def tag(self, key: str, value: str) -> None:
        self._tags[key] = value
        self._send()

    def artifact(self, file: Path) -> None:
        if not self._away and self._id is not None:
            _log_artifact(self._client, self._id, file)

    def close(self, status: str) -> None:
        self._next_try = 0.0
        self._send()
        if not self._away and self._id is not None:
            try:
                self._client.set_terminated(self._id, status)
            except Exception as error:
                self._fall_behind(error)
        elif self._unsent:
            say(f"{len(self._unsent)} records could not be sent to MLflow; they are in {self._run.metrics}")

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
            say("MLflow is back and has all records")
        if self._is_noted:
            self._run.remember(mlflow_records=None)
        self._is_noted, self._away, self._pause = False, False, _FIRST_PAUSE

    def _fall_behind(self, error: Exception) -> None:
        if not self._away:
            say(
                f"MLflow does not answer ({type(error).__name__}: {first_line(error)[:200]}); the run continues, and "
                "sends it later what is in metrics.jsonl"
            )
        self._run.remember(mlflow_records=self._sent)
        self._is_noted = True
        self._away, self._next_try, self._pause = True, time.monotonic() + self._pause, 2 * self._pause

    def _open(self) -> None:
        """Find or make the run, with its parameters and its configuration."""
        with warnings.catch_warnings(action="ignore"):
            from mlflow import MlflowClient
            from mlflow.entities import Param
        with _alone_in(self._config.tracking_uri, self._run.path.parent):
            self._client = MlflowClient(tracking_uri=self._config.tracking_uri)
            run_id = self._find_or_create()
        logged = self._client.get_run(run_id).data.params  # by an earlier start, and MLflow lets none be changed
        parameters = [Param(k, str(v)[:500]) for k, v in flatten(self._run.config).items() if k not in logged]
        for start in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(run_id, params=parameters[start : start + _PARAMETERS])
        _log_artifact(self._client, run_id, self._run.path / "config.yaml")
        self._id = run_id

    def _find_or_create(self) -> str:
        known = self._run.manifest().get("mlflow_run_id")
        if known:
            self._client.update_run(known, status="RUNNING")
            return str(known)
        name = self._config.experiment
        found = self._client.get_experiment_by_name(name)
        if found is None:
            experiment = self._client.create_experiment(name, _artifacts(self._config.tracking_uri))
        else:
            experiment = found.experiment_id
        study = self._study(experiment)
        tags = {} if study is None else {_PARENT: study}
        run_id = str(self._client.create_run(experiment, run_name=self._run.path.name, tags=tags).info.run_id)
        self._run.remember(mlflow_run_id=run_id, mlflow_study_id=study)
        return run_id

    def _study(self, experiment: str) -> str | None:
        """The run that stands for the study, made by the first of its runs."""
        name = self._config.study
        if name is None:
            return None
        where = f"tags.{_STUDY} = '{name}'"
        if known := self._client.search_runs([experiment], where, max_results=1, order_by=["start_time ASC"]):
            return str(known[0].info.run_id)
        return str(self._client.create_run(experiment, run_name=name, tags={_STUDY: name}).info.run_id)


def finish_study(runs: Iterable[Sequence[Path]], page: Path) -> None:
    """End the run that stands for a study in MLflow, with the study's page; nothing happens if it has none there.

    runs  the study's runs, arm by arm
    """
    if not has("mlflow"):
        return
    with warnings.catch_warnings(action="ignore"):
        from mlflow import MlflowClient
    for uri, study in sorted({place for arm in runs for run in arm for place in _study_of(run)}):
        client = MlflowClient(tracking_uri=uri)
        _log_artifact(client, study, page)
        try:
            client.set_terminated(study, "FINISHED")
        except Exception as error:
            say(f"MLflow does not answer ({first_line(error)[:200]})")


def _study_of(run: Path) -> Iterator[tuple[str, str]]:
    """(tracking URI, the study's run there)."""
    study = json.loads((run / "run.json").read_text()).get("mlflow_study_id")
    if study is not None:
        yield read_options(run / "config.yaml")["mlflow"]["tracking_uri"], study


def _log_artifact(client: Any, run_id: str, file: Path) -> None:
    """Many a server takes metrics, and keeps its artifacts in a place that a client cannot write."""
    try:
        client.log_artifact(run_id, str(file))
    except Exception as error:
        say(
            f"MLflow takes no artifacts ({type(error).__name__}: {first_line(error)[:200]}); {file.name} is in "
            f"{file.parent}"
        )


_PARENT, _STUDY = "mlflow.parentRunId", "wmtp.study"
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
    return [Metric(name, value, now, record["step"]) for record in records for name, value in values_of(record).items()]


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
def _alone_in(tracking_uri: str, runs: Path) -> Iterator[None]:
    """Hold off other runs while this one opens a database file, or looks for its study's run on a server.

    MLflow makes its tables, and an experiment, unguarded, so that of two first runs at one moment the second would
    fail; a killed run's lock is gone with it.
    """
    database = _database(tracking_uri)
    lock = runs / ".mlflow.lock" if database is None else database.with_name(f".{database.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield
