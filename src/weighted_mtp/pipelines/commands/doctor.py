"""`wmtp doctor`"""

from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.pipelines.command import Debug, user_errors


def main(
    try_attacks: Annotated[
        bool,
        typer.Option("--attacks/--no-attacks", help="Try isolation out with hostile programs, about a minute."),
    ] = True,
    storage: Annotated[Path, typer.Option(help="Folder for models, datasets and runs.")] = Path("storage"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    debug: Debug = False,
) -> None:
    """Say what works on this machine and what to do about the rest; try out how well it keeps hostile programs in."""
    with user_errors(debug):
        from weighted_mtp.pipelines.doctor import BAD, examine

        if not examine(storage, try_attacks, as_json):
            raise typer.Exit(BAD)
