"""`wmtp report`"""

from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.pipelines.command import Debug, user_errors


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of an evaluation, a study or a training run.")],
    output: Annotated[Path | None, typer.Option(help="HTML file to write. Default: page.html in that folder.")] = None,
    debug: Debug = False,
) -> None:
    """Write one HTML page to send: options, results and every program, in a single file that needs no network."""
    with user_errors(debug):
        from weighted_mtp.pipelines.report_page import write_report_page

        print(write_report_page(folder, output or folder / "page.html"))
