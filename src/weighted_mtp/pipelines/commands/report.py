"""`wmtp report`"""

from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.pipelines.command import Debug, user_errors


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of an evaluation, a study or a training run.")],
    output: Annotated[Path | None, typer.Option(help="HTML file to write. Default: page.html in that folder.")] = None,
    problems: Annotated[
        int,
        typer.Option(
            help="Problems whose programs a run with token weights, or a critic, shows token by token.", min=0
        ),
    ] = 4,
    linked: Annotated[
        bool, typer.Option("--linked", help="Also write the pages of a study's runs and of their evaluations.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write one HTML page to send: options, results and every program, in a single file that needs no network."""
    with user_errors(debug):
        from weighted_mtp.pipelines.report_page import write_report_page
        from weighted_mtp.report.links import PAGE

        print(write_report_page(folder, output or folder / PAGE, problems, linked))
