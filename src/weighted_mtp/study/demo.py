"""The whole method on a laptop: reference, policies, critics on their own failures, weightings and controls, compared.

    uv run wmtp demo
    uv run wmtp demo --seeds 4 --seeds 5     other seeds than those of the README's table

It is the study `configs/local/demo.yaml`. Stopped at any time, the same command resumes where it was.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rich.console import Console

from weighted_mtp.config import load_config
from weighted_mtp.configurations import folder
from weighted_mtp.extras import has
from weighted_mtp.pipelines.token_weights import run_source, write_weights
from weighted_mtp.study.config import StudyConfig
from weighted_mtp.study.run import report, run_study

SHOWN = 4  # problems whose programs the picture of token weights shows
PROBLEMS_PER_STEP = 10  # of a quick look
CONFIG = folder() / "local" / "demo.yaml"


def demo_config(storage: Path, steps: int | None, seeds: Sequence[int]) -> StudyConfig:
    """`configs/local/demo.yaml`, with everything under `storage`; its own seeds if none are given.

    steps  of every training run, for a quick look, which has few problems, too
    """
    options = [f"storage={storage}"]
    parts = ["demo"]
    if seeds:
        parts.append("seeds-" + "-".join(map(str, seeds)))
        options.append(f"seeds={[*seeds]}")
    if steps:
        parts.append(f"{steps}-steps")
        options += [f"override.training.max_steps={steps}", f"override.optim.warmup_steps={min(10, steps // 2)}"]
        few = min(PROBLEMS_PER_STEP * steps, cast(int, load_config(StudyConfig, CONFIG).first))
        options += [f"first={few}", f"stages.own.first={few}"]
    return load_config(StudyConfig, CONFIG, [*options, f"name={'-'.join(parts)}"])


def run_demo(config: StudyConfig, jobs: int) -> bool:
    """Run the study and say where everything lies; False if it was stopped."""
    started, console = time.monotonic(), Console()
    result = run_study(config, CONFIG, jobs=jobs)
    if result is None:
        return False
    for file in report(config, result):
        console.print(file, soft_wrap=True)
    weights = config.storage / "runs" / config.name / "weights.html"
    source = run_source(result.runs["verifiable"][0])
    files = write_weights(source, config.storage / "datasets" / "micro" / "validation", SHOWN, weights)
    console.print(f"token weights: {' and '.join(map(str, files))}", soft_wrap=True)
    for arm, folders in result.evaluations[config.sampling.temperature].items():
        console.print(f"{arm}: every program and its verdict in {folders[0] / 'results.jsonl'}", soft_wrap=True)
    if has("mlflow"):
        console.print(
            f"MLflow: uv run mlflow ui --backend-store-uri sqlite:///{config.storage / 'mlflow.db'}", soft_wrap=True
        )
    console.print(f"{time.monotonic() - started:.0f} s in all", soft_wrap=True)
    return True
