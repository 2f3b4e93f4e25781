"""`wmtp doctor`"""

from typing import Annotated

import typer

from weighted_mtp.pipelines.command import Debug, user_errors


def main(
    try_attacks: Annotated[
        bool, typer.Option("--attacks/--no-attacks", help="Also try it out with hostile programs, about a minute.")
    ] = True,
    debug: Debug = False,
) -> None:
    """Say how well this machine can keep hostile programs in, and try it out."""
    with user_errors(debug):
        from weighted_mtp.pipelines.doctor import UNSAFE, examine

        if not examine(try_attacks):
            raise typer.Exit(UNSAFE)
