"""The whole method on a laptop: reference, critic, uniform baseline, TD weighting, Rho-1, executed and compared.

    uv run wmtp demo

It is the study `configs/local/demo.yaml`. Stopped at any time, the same command goes on where it was.
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from weighted_mtp.config import load_config
from weighted_mtp.pipelines.command import INTERRUPTED, Debug, one_line_errors
from weighted_mtp.pipelines.run_study import report, run_study
from weighted_mtp.pipelines.study import StudyConfig
from weighted_mtp.pipelines.token_weights import run_source, write_weights

SHOWN = 4  # problems whose programs the picture of token weights shows
CONFIG = Path(__file__).parents[3] / "configs" / "local" / "demo.yaml"


def demo_config(storage: Path, steps: int | None, seed: int) -> StudyConfig:
    """`configs/local/demo.yaml`, with everything under `storage`."""
    name = f"demo-seed-{seed}" + (f"-{steps}-steps" if steps else "")
    short = [f"override=[training.max_steps={steps},optim.warmup_steps={min(10, steps // 2)}]"] if steps else []
    return load_config(StudyConfig, CONFIG, [f"name={name}", f"storage={storage}", f"seeds=[{seed}]", *short])


def main(
    storage: Annotated[Path, typer.Option(help="Folder for data, runs and results.")] = Path("storage"),
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps of every training run; a quick look, not a result.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and sampling.", min=0)] = 0,
    debug: Debug = False,
) -> None:
    """Run the whole method once on the embedded micro benchmark; a quarter of an hour on two CPU cores, no download."""
    with one_line_errors(debug):
        _run(storage, steps, seed)


def _run(storage: Path, steps: int | None, seed: int) -> None:
    started, console = time.monotonic(), Console()
    config = demo_config(storage, steps, seed)
    result = run_study(config, CONFIG.parent)
    if result is None:
        raise typer.Exit(INTERRUPTED)
    for file in report(config, result):
        console.print(file, soft_wrap=True)
    weights = storage / "runs" / config.name / "weights.html"
    source = run_source(result.runs["verifiable"][0])
    picture = write_weights(source, storage / "datasets" / "micro" / "validation", SHOWN, weights)
    console.print(f"token weights: {weights} and {picture}", soft_wrap=True)
    for arm, folders in result.evaluations[config.sampling.temperature].items():
        console.print(f"{arm}: every program and its verdict in {folders[0] / 'results.jsonl'}", soft_wrap=True)
    console.print(f"MLflow: uv run mlflow ui --backend-store-uri sqlite:///{storage / 'mlflow.db'}", soft_wrap=True)
    console.print(f"{time.monotonic() - started:.0f} s in all")
