"""A run in Weights & Biases: online, or in its folder until `wandb sync` sends it."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from uuid import uuid4

from weighted_mtp.errors import UserError, first_line
from weighted_mtp.section import Section, flatten
from weighted_mtp.training.run_directory import Record, RunDirectory, git_sha, values_of


class WandbConfig(Section):
    """Where a run goes in Weights & Biases, if `tracking` names it."""

    project: str = "weighted-mtp"
    """The project under which runs are listed."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes to `wandb/` in the run's folder; `wandb sync` sends it later."""


class WandbRun:
    """`run.json` keeps its id, so that a resumed run continues it. Its own processes retry while the server is away."""

    def __init__(self, run: RunDirectory, config: WandbConfig, records: Sequence[Record]) -> None:
        """
        records  what `metrics.jsonl` holds at the start; a run that is new to W&B gets them

        Raises `UserError` if W&B refuses, such as without an API key.
        """
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        logging.getLogger("wandb").setLevel(logging.ERROR)
        known = run.manifest().get("wandb_run_id")
        identity = known or uuid4().hex[:12]
        settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True, login_timeout=30)
        try:
            self._run = wandb.init(
                project=config.project,
                name=run.path.name,
                id=identity,
                dir=run.path,
                mode=config.mode,
                resume="allow" if config.mode == "online" else None,
                config={name: str(value) for name, value in flatten(run.config).items()},
                settings=settings,
            )
        except (wandb.Error, OSError) as error:
            raise UserError(
                f"tracking=wandb: {first_line(error)}; log in with `wandb login`, or set wandb.mode=offline"
            ) from error
        run.remember(wandb_run_id=identity)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self.tag("git_sha", git_sha())
        for record in () if known else records:
            self.log(record)

    def log(self, record: Record) -> None:
        self._run.log({"step": record["step"], **values_of(record)})

    def tag(self, key: str, value: str) -> None:
        self._run.summary[key] = value

    def artifact(self, file: Path) -> None:
        self._run.save(file, base_path=file.parent, policy="now")

    def close(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)
