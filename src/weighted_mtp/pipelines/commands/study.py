"""`wmtp study`"""

from typing import Annotated, Literal

import typer

from weighted_mtp.pipelines.command import (
    INTERRUPTED,
    AcceptChanges,
    ConfigFile,
    Debug,
    Overrides,
    starting,
    user_errors,
)


def main(
    config: ConfigFile,
    override: Overrides = None,
    scheduler: Annotated[
        Literal["local", "slurm"],
        typer.Option(help="Who runs the steps: this machine, or Slurm with the options in the file's `slurm:`."),
    ] = "local",
    jobs: Annotated[
        int | None,
        typer.Option(help="Steps at once. Default: one, in this process; with Slurm, all that can begin.", min=1),
    ] = None,
    accept_changes: AcceptChanges = False,
    debug: Debug = False,
) -> None:
    """Compare weightings over several seeds: everything from pretraining to the table, resumed arm by arm."""
    with user_errors(debug):
        with starting("study: reading its steps"):
            from weighted_mtp.config import load_config
            from weighted_mtp.configurations import find
            from weighted_mtp.study.config import StudyConfig
            from weighted_mtp.study.run import report, run_study

        file = find(config)
        accepted = ["override.run.accept_changes=true"] if accept_changes else []
        study = load_config(StudyConfig, file, [*(override or ()), *accepted])
        result = run_study(study, file, scheduler, jobs)
        if result is None:
            raise typer.Exit(INTERRUPTED)
        for written in report(study, result):
            print(written)
