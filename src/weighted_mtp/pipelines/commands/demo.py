"""`wmtp demo`"""

from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.pipelines.command import INTERRUPTED, Debug, starting, user_errors


def main(
    storage: Annotated[Path, typer.Option(help="Folder for data, runs and results.")] = Path("storage"),
    steps: Annotated[
        int | None,
        typer.Option(help="Optimizer steps of every training run, with few problems; only a quick look.", min=1),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(help="Seed of weights, order and sampling; may be repeated. Default: 10, 11, 12."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Steps that run at once, each with its share of the cores. Default: one per core.", min=1),
    ] = None,
    debug: Debug = False,
) -> None:
    """Run the whole method on the embedded micro benchmark: three seeds, a quarter of an hour on two CPU cores."""
    with user_errors(debug):
        with starting("demo: planning its runs"):
            from weighted_mtp.parallel import cores
            from weighted_mtp.study.demo import demo_config, run_demo

        if not run_demo(demo_config(storage, steps, seeds or ()), jobs or cores()):
            raise typer.Exit(INTERRUPTED)
