"""`wmtp weights`"""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from weighted_mtp.pipelines.command import Debug, user_errors


def main(
    critic: Annotated[Path | None, typer.Option(help="Run of a critic, with the weighting's default options.")] = None,
    run: Annotated[Path | None, typer.Option(help="Or a verifiable or Rho-1 run, with its own options.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where the datasets are; where the run had them if not given.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset with correct and incorrect programs; the run's own if not given.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Its split; the run's validation split if not given, or the training split if it has none."),
    ] = None,
    problems: Annotated[
        int | None,
        typer.Option(help="How many problems. Default: 4, two programs each; of a table all.", min=1),
    ] = None,
    format_: Annotated[
        Literal["html", "parquet"],
        typer.Option("--format", help="A page; or a table of ids, tokens, weights and δ for other trainers."),
    ] = "html",
    output: Annotated[
        Path | None,
        typer.Option(help="File to write; a page's picture lies beside it. Default: weights.html or weights.parquet."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show programs with every token coloured by its weight and by what the critic says of it; or write them down."""
    with user_errors(debug):
        from weighted_mtp.errors import UserError

        if (critic is None) == (run is None):
            raise UserError("give either --critic (the run of a critic) or --run (a verifiable or Rho-1 run)")
        file = output or Path(f"weights.{format_}")
        if file.suffix != f".{format_}":
            raise UserError(f"--output {output}: --format is {format_}; give a name that ends in .{format_}")
        from weighted_mtp.data.preparation.prepare import prepare_embedded
        from weighted_mtp.pipelines.token_weights import write_weights
        from weighted_mtp.pipelines.weight_source import critic_source, run_source, split_of

        directory = split_of(cast(Path, critic or run), data_root, dataset, split)
        prepare_embedded(directory.parent.name, root=directory.parent.parent)
        source = critic_source(critic) if critic else run_source(cast(Path, run))
        if format_ == "parquet":
            from weighted_mtp.pipelines.weights_table import write_weights_table

            print(f"{write_weights_table(source, directory, problems, file)} programs: {file}")
            return
        page, *pictures = write_weights(source, directory, problems or 4, file)
        print(f"page:    {page}", *(f"picture: {picture}" for picture in pictures), sep="\n")
