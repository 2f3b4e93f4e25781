"""The whole path on a laptop: make data, train a small policy from scratch, sample programs, execute them, pass@1.

    uv run wmtp demo

Stopped at any time, the same command goes on where it was.
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from weighted_mtp.config import load_config
from weighted_mtp.decoding.sample import SamplingConfig
from weighted_mtp.pipelines.command import INTERRUPTED, Debug, one_line_errors
from weighted_mtp.pipelines.policy import PolicyConfig
from weighted_mtp.pipelines.run_baseline import run_baseline
from weighted_mtp.pipelines.run_evaluation import EvaluationConfig, evaluate, print_report
from weighted_mtp.report.curves import curve_table, plot_curve

CONFIG = Path(__file__).parents[3] / "configs" / "local" / "demo.yaml"


def demo_config(storage: Path, steps: int | None, seed: int) -> PolicyConfig:
    """`configs/local/demo.yaml`, with everything under `storage`."""
    name = f"demo-seed-{seed}" + (f"-{steps}-steps" if steps else "")
    overrides = [
        f"run.name={name}",
        f"run.root={storage / 'runs'}",
        f"run.seed={seed}",
        f"model.micro_tokenizer={storage / 'datasets' / 'micro' / 'tokenizer'}",
        f"data.root={storage / 'datasets'}",
        f"mlflow.tracking_uri=sqlite:///{storage / 'mlflow.db'}",
    ]
    return load_config(PolicyConfig, CONFIG, [*overrides, *([f"training.max_steps={steps}"] if steps else [])])


def main(
    storage: Annotated[Path, typer.Option(help="Folder for data, runs and results.")] = Path("storage"),
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; 1000 where not given.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and sampling.", min=0)] = 0,
    debug: Debug = False,
) -> None:
    """Run everything once on the embedded micro benchmark; minutes on two CPU cores, no download of data or models."""
    with one_line_errors(debug):
        _run(storage, steps, seed)


def _run(storage: Path, steps: int | None, seed: int) -> None:
    started, console = time.monotonic(), Console()
    run = run_baseline(demo_config(storage, steps, seed))
    if run is None:
        raise typer.Exit(INTERRUPTED)
    results = run / "evaluation-micro"
    report = evaluate(
        EvaluationConfig(
            benchmark="micro",
            checkpoint=str(run),
            data_root=storage / "datasets",
            output=results,
            sampling=SamplingConfig(max_new_tokens=160, batch_size=128),
        )
    )
    console.print(curve_table(run))
    print_report(report)
    console.print(f"training curve:  {plot_curve(run)}", soft_wrap=True)
    console.print(f"run:             {run}  (config.yaml, metrics.jsonl, checkpoints/)", soft_wrap=True)
    console.print(f"samples:         {results / 'samples.jsonl'}", soft_wrap=True)
    console.print(
        f"MLflow:          uv run mlflow ui --backend-store-uri sqlite:///{storage / 'mlflow.db'}", soft_wrap=True
    )
    console.print(f"{time.monotonic() - started:.0f} s in all")
