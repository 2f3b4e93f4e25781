"""`wmtp data`"""

import os
from pathlib import Path

import typer

from weighted_mtp.pipelines.command import USER_ERROR, starting
from weighted_mtp.pipelines.commands.flags import takes
from weighted_mtp.pipelines.config import DatasetsConfig


@takes("data", "keep", "small")
def main(config: DatasetsConfig) -> None:
    """Prepare datasets: problems with their tests, correct and incorrect solutions, in one schema for all.

    Files come from the hub, or from --source if there is no network. Training splits are compared with every
    evaluation set that is prepared, and what overlaps is dropped. If a dataset fails, the others continue; the exit
    code is then 2.
    """
    if config.workers is not None:
        os.environ["RAYON_NUM_THREADS"] = str(config.workers)  # for the tokenizer, which otherwise takes all cores
    with starting("data: importing what reads datasets"):
        from weighted_mtp.pipelines.setup_datasets import setup
        from weighted_mtp.progress import say

    failures = setup(config)
    for line in failures:
        say(f"error: {line}")
    if failures:
        raise typer.Exit(USER_ERROR)
    if config.imported is not None:
        storage = "" if config.storage == Path("storage") else f" --storage {config.storage}"
        print(f"next: wmtp recipe {config.name} --model MODEL{storage}")
