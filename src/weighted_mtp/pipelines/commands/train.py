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


def _command(kind: str, does: str) -> Callable[..., None]:
    """The command of a pipeline of `PIPELINES`."""

    def command(
        config: ConfigFile, override: Overrides = None, accept_changes: AcceptChanges = False, debug: Debug = False
    ) -> None:
        with user_errors(debug):
            _train(kind, config, override, accept_changes)

    command.__doc__ = f"{does}\n\nAll options: `wmtp options {kind.replace('_', '-')}`."
    return command


def _train(kind: str, config: Path, override: Sequence[str] | None, accept_changes: bool) -> None:
    """Read the options, join the other ranks if there are any, train, and say where the run lies."""
    starting(f"train {kind.replace('_', '-')}: importing PyTorch")
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


ref_tuning = _command("ref_tuning", "Fine-tune the reference model on correct programs.")
critic = _command("critic", "Train a critic on pairs of correct and incorrect programs.")
baseline = _command("baseline", "Train a policy with all tokens weighted equally.")
verifiable = _command("verifiable", "Train a policy whose tokens a critic weights.")
rho1 = _command("rho1", "Train a policy on the tokens that Rho-1 selects.")
third_party = _command("third_party", "Train a policy with a token weighting of your own, or of another package.")
