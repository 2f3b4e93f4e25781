"""`wmtp train …`: every training pipeline by its name, each with the same options."""

from collections.abc import Sequence
from pathlib import Path

import typer

from weighted_mtp.pipelines.command import INTERRUPTED, AcceptChanges, ConfigFile, Debug, Overrides, one_line_errors


def ref_tuning(
    config: ConfigFile, override: Overrides = None, accept_changes: AcceptChanges = False, debug: Debug = False
) -> None:
    """Fine-tune the reference model on correct programs."""
    _train("ref_tuning", config, override, accept_changes, debug)


def critic(
    config: ConfigFile, override: Overrides = None, accept_changes: AcceptChanges = False, debug: Debug = False
) -> None:
    """Train a critic on pairs of correct and incorrect programs."""
    _train("critic", config, override, accept_changes, debug)


def baseline(
    config: ConfigFile, override: Overrides = None, accept_changes: AcceptChanges = False, debug: Debug = False
) -> None:
    """Train a policy with all tokens weighted equally."""
    _train("baseline", config, override, accept_changes, debug)


def verifiable(
    config: ConfigFile, override: Overrides = None, accept_changes: AcceptChanges = False, debug: Debug = False
) -> None:
    """Train a policy whose tokens a critic weights."""
    _train("verifiable", config, override, accept_changes, debug)


def rho1(
    config: ConfigFile, override: Overrides = None, accept_changes: AcceptChanges = False, debug: Debug = False
) -> None:
    """Train a policy on the tokens that Rho-1 selects."""
    _train("rho1", config, override, accept_changes, debug)


def third_party(
    config: ConfigFile, override: Overrides = None, accept_changes: AcceptChanges = False, debug: Debug = False
) -> None:
    """Train a policy with a token weighting that another installed package offers."""
    _train("third_party", config, override, accept_changes, debug)


def _train(kind: str, config: Path, override: Sequence[str] | None, accept_changes: bool, debug: bool) -> None:
    """Read the options, join the other ranks if there are any, train, and say where the run lies."""
    with one_line_errors(debug):
        from weighted_mtp.config import load_config
        from weighted_mtp.pipelines.kinds import KINDS
        from weighted_mtp.progress import console
        from weighted_mtp.runtime.distributed import process_group

        schema, run = KINDS[kind]
        accepted = [f"run.accept_changes={accept_changes}"] if accept_changes else []
        options = load_config(schema, config, [*(override or ()), *accepted])
        with process_group(options.runtime):
            folder = run(options)
        if folder is None:
            raise typer.Exit(INTERRUPTED)
        if not console.quiet:
            print(folder)
