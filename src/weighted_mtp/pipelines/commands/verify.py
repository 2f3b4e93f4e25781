"""`wmtp verify`"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from weighted_mtp.pipelines.command import Debug, user_errors


def main(
    check: Annotated[Literal["all", "models", "datasets"], typer.Option(help="What to check.")] = "all",
    generate_report: Annotated[
        bool, typer.Option("--generate-report", help="Also write verification.md and .json under the storage folder.")
    ] = False,
    storage: Annotated[Path, typer.Option(help="Folder with models and datasets.")] = Path("storage"),
    debug: Debug = False,
) -> None:
    """Check models and datasets: checksums, schema, counts, leakage between splits, weights, heads, tokenizer."""
    with user_errors(debug):
        from weighted_mtp.pipelines.verify_storage import FAILED, verify_and_say

        if not verify_and_say(storage, check, generate_report):
            raise typer.Exit(FAILED)
