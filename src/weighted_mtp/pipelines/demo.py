"""The whole path on a laptop: make data, train a small policy from scratch, sample programs, execute them, pass@1.

    uv run wmtp demo

Stopped at any time, the same command goes on where it was.
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from weighted_mtp.data.load import DataConfig
from weighted_mtp.data.prepare import prepare_embedded
from weighted_mtp.decoding.sample import SamplingConfig
from weighted_mtp.models.build import MicroModelConfig, ModelConfig
from weighted_mtp.pipelines.command import INTERRUPTED, Debug, one_line_errors
from weighted_mtp.pipelines.policy import PolicyConfig, RunConfig
from weighted_mtp.pipelines.run_baseline import run_baseline
from weighted_mtp.pipelines.run_evaluation import EvaluationConfig, evaluate, print_report
from weighted_mtp.report.curves import curve_table, plot_curve
from weighted_mtp.runtime.device import RuntimeConfig
from weighted_mtp.training.loop import TrainingConfig
from weighted_mtp.training.optim import OptimConfig
from weighted_mtp.training.tracking import MLflowConfig


def demo_config(storage: Path, steps: int, seed: int) -> PolicyConfig:
    """The baseline of the demo; everything else is the options' defaults."""
    return PolicyConfig(
        run=RunConfig(name=f"demo-baseline-{steps}-steps-seed-{seed}", root=storage / "runs", seed=seed),
        model=ModelConfig(micro=MicroModelConfig(tokenizer=storage / "datasets" / "micro" / "tokenizer")),
        data=DataConfig(root=storage / "datasets", template="plain", max_length=256, max_tokens=4096),
        optim=OptimConfig(lr=2e-3),
        training=TrainingConfig(max_steps=steps, validate_every=100, save_every=100),
        runtime=RuntimeConfig(precision="fp32"),
        mlflow=MLflowConfig(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}"),
    )


def main(
    storage: Annotated[Path, typer.Option(help="Folder for data, runs and results.")] = Path("storage"),
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 600,
    seed: Annotated[int, typer.Option(help="Of weights, order and sampling.", min=0)] = 0,
    debug: Debug = False,
) -> None:
    """Run everything once on the embedded micro benchmark; minutes on two CPU cores, no download of data or models."""
    with one_line_errors(debug):
        _run(storage, steps, seed)


def _run(storage: Path, steps: int, seed: int) -> None:
    started, console = time.monotonic(), Console()
    prepare_embedded("micro", storage / "datasets")
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
