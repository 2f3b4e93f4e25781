"""`wmtp configs list` and `wmtp configs copy`"""

from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp import configurations
from weighted_mtp.pipelines.command import Debug, user_errors


def show(debug: Debug = False) -> None:
    """List the configurations that come with the package, by the names that `--config` takes."""
    with user_errors(debug):
        known = dict(configurations.summaries())
        width = max(map(len, known))
        for name, says in known.items():
            print(f"{name:{width}}  {says}")


def copy(
    name: Annotated[
        str,
        typer.Argument(help="Its name, such as local/study, or all.", autocompletion=configurations.complete),
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder for the copies.")] = Path("configs"),
    debug: Debug = False,
) -> None:
    """Copy a configuration, with those that it is made of, to be changed."""
    with user_errors(debug):
        written = [str(file) for file in configurations.copy(name, to)]
        print(*(written or ["everything is there already"]), sep="\n")
