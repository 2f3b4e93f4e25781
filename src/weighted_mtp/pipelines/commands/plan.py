"""`wmtp plan`"""

from typing import Annotated

import typer

from weighted_mtp.pipelines.command import ConfigFile, Debug, Overrides, starting, user_errors


def main(
    config: ConfigFile,
    override: Overrides = None,
    gpus: Annotated[int, typer.Option(help="GPUs of a node, each with a rank of its own.", min=1)] = 1,
    nodes: Annotated[int, typer.Option(help="Nodes.", min=1)] = 1,
    gpu_memory: Annotated[float, typer.Option(help="Memory of a GPU, GB; what is more does not fit.", min=1)] = 80,
    debug: Debug = False,
) -> None:
    """Say what a training run needs on every GPU, for each way to share it; needs no weights, data or GPU."""
    with user_errors(debug):
        with starting("plan: importing PyTorch"):
            from rich.console import Console

            from weighted_mtp.configurations import find
            from weighted_mtp.memory.configured import planned
            from weighted_mtp.memory.plan import Machine, plan
            from weighted_mtp.memory.table import plan_table

        run = planned(find(config), tuple(override or ()))
        Console().print(plan_table(plan(run, Machine(gpus, nodes)), run.batch, gpu_memory))
