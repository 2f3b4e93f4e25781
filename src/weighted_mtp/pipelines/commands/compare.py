"""`wmtp compare`"""

from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.pipelines.command import Debug, user_errors


def main(
    arms: Annotated[
        list[str],
        typer.Argument(help="Folders of `wmtp evaluate`, the baseline first; name=DIR,DIR where an arm has seeds."),
    ],
    output: Annotated[Path | None, typer.Option(help="Also write the table to this file, as Markdown.")] = None,
    k: Annotated[int, typer.Option(help="k of pass@k.", min=1)] = 1,
    base: Annotated[
        bool, typer.Option("--base", help="Count by the base tests of humaneval+ and mbpp+, without EvalPlus' own.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Compare evaluations on the same problems: pass@k, and the paired difference to the first with its interval."""
    with user_errors(debug):
        from rich.console import Console

        from weighted_mtp.pipelines.compare import named_arms, write_comparison
        from weighted_mtp.report.comparison import compare
        from weighted_mtp.report.comparison_page import comparison_table, finding

        comparison = compare(named_arms(arms), k=k, base=base)
        console = Console()
        console.print(comparison_table(comparison))
        for note in comparison.notes:
            print(note)
        print(finding(comparison))
        if output is not None:
            write_comparison(comparison, output)
            console.print(f"table: {output}", soft_wrap=True)
