"""`wmtp evaluate`"""

from typing import Annotated

import typer

from weighted_mtp.pipelines.command import starting
from weighted_mtp.pipelines.commands.flags import takes
from weighted_mtp.pipelines.config import EvaluationConfig


@takes("evaluate", "sampling", "server")
def main(
    config: EvaluationConfig,
    *,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of each sample that did not pass how it ended, and with which value.")
    ] = False,
) -> None:
    """Sample programs (or take them from a file), execute them isolated, and report pass@k with its interval."""
    with starting("evaluate: " + ("importing PyTorch" if config.samples is None else "reading problems and samples")):
        from weighted_mtp.pipelines.run_evaluation import RANKS_WAIT, evaluate, print_report
        from weighted_mtp.runtime.distributed import is_first, process_group

    with process_group(config.runtime.model_copy(update={"timeout_seconds": RANKS_WAIT})):
        report = evaluate(config)
        if is_first():
            print_report(report, explain)
