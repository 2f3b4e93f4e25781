"""`wmtp label`"""

from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.pipelines.command import Debug, user_errors


def main(
    evaluations: Annotated[
        list[Path], typer.Argument(help="Folders of `wmtp evaluate`, on the train and validation split of one dataset.")
    ],
    name: Annotated[str, typer.Option(help="Name of the dataset that is written; a training run's data.dataset.")],
    splits: Annotated[
        str, typer.Option(help="Splits whose programs may be taken, each into the split of its name; comma-separated.")
    ] = "train,validation",
    keep_solutions: Annotated[
        bool, typer.Option("--keep-solutions", help="Take the dataset's own correct and incorrect solutions, too.")
    ] = False,
    keep_unfinished: Annotated[
        bool, typer.Option("--keep-unfinished", help="Keep programs that were cut at the longest answer allowed.")
    ] = False,
    storage: Annotated[Path, typer.Option(help="Folder for datasets.")] = Path("storage"),
    debug: Debug = False,
) -> None:
    """Make a dataset of a policy's own programs: executed samples of training problems, labelled by their verdicts.

    Programs are told apart by their text and kept once per problem; those that were cut are left out.
    """
    with user_errors(debug):
        from weighted_mtp.errors import UserError
        from weighted_mtp.evaluation.own_programs import LabelOptions
        from weighted_mtp.pipelines.label_samples import label

        if name != Path(name).name or name.startswith("."):
            raise UserError(f"--name {name}: must be the plain name of a folder")
        wanted = tuple(split.strip() for split in splits.split(","))
        label(evaluations, storage / "datasets" / name, LabelOptions(wanted, keep_solutions, keep_unfinished))
