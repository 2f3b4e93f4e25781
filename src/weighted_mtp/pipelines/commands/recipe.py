"""`wmtp recipe`"""

from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.pipelines.command import Debug, starting, user_errors


def main(
    dataset: Annotated[str, typer.Argument(help="A prepared dataset, such as one of your own.")],
    model: Annotated[
        str,
        typer.Option(
            help="Model to start from: folder, run, .gguf file or hub id; or micro, a new one that needs no download."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the configurations. Default: configs/DATASET.")
    ] = None,
    storage: Annotated[Path, typer.Option(help="Where the dataset is, and runs will be.")] = Path("storage"),
    debug: Debug = False,
) -> None:
    """Write configurations that fit a dataset and a model: reference, critic, policy, study; and say what to run."""
    with user_errors(debug):
        with starting("recipe: looking at the dataset and the model"):
            from weighted_mtp.pipelines.recipe import commands, gather, write_recipe

        target = output or Path("configs") / dataset
        facts = gather(dataset, model, storage)
        for file in write_recipe(facts, target):
            print(file)
        print("", *commands(facts, target), sep="\n")
