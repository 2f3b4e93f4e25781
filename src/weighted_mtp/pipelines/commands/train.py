"""`wmtp train …`: every training pipeline by its name, each with the same options."""

from collections.abc import Callable, Sequence
from pathlib import Path

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


def _trains(pipeline: Callable[[], None]) -> Callable[..., None]:
    """The command of the pipeline that `PIPELINES` has under this function's name; its docstring is the help."""
    name = pipeline.__name__

    def command(
        config: ConfigFile, override: Overrides = None, accept_changes: AcceptChanges = False, debug: Debug = False
    ) -> None:
        with user_errors(debug):
            _train(name, config, override, accept_changes)

    command.__doc__ = f"{pipeline.__doc__}\n\nAll options: `wmtp options {name.replace('_', '-')}`."
    return command


def _train(kind: str, config: Path, override: Sequence[str] | None, accept_changes: bool) -> None:
    """Read the options, join the other ranks if there are any, train, and say where the run lies."""
    with starting(f"train {kind.replace('_', '-')}: importing PyTorch"):
        from weighted_mtp.config import load_config
        from weighted_mtp.configurations import find
        from weighted_mtp.pipelines.kinds import PIPELINES
        from weighted_mtp.progress import console, say
        from weighted_mtp.report.links import PAGE
        from weighted_mtp.runtime.distributed import process_group

    schema, run = PIPELINES[kind]
    accepted = [f"run.accept_changes={accept_changes}"] if accept_changes else []
    options = load_config(schema, find(config), [*(override or ()), *accepted])
    with process_group(options.runtime):
        folder = run(options)
    if folder is None:
        raise typer.Exit(INTERRUPTED)
    if not console.quiet:
        print(folder)
        if (folder / PAGE).is_file():
            say(f"its curves: {folder / PAGE}")


@_trains
def ref_tuning() -> None:
    """Fine-tune the reference model on correct programs."""


@_trains
def critic() -> None:
    """Train a critic on pairs of correct and incorrect programs."""


@_trains
def baseline() -> None:
    """Train a policy with all tokens weighted equally."""


@_trains
def verifiable() -> None:
    """Train a policy whose tokens a critic weights."""


@_trains
def rho1() -> None:
    """Train a policy on the tokens that Rho-1 selects."""


@_trains
def third_party() -> None:
    """Train a policy with a token weighting of your own, or of another package."""
