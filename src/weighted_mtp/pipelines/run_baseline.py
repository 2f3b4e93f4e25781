"""Uniform-weight multi-token prediction: the baseline that every weighting must beat.

    PYTHONPATH=src python src/weighted_mtp/pipelines/run_baseline.py --config configs/local/baseline_local.yaml
    torchrun --nproc_per_node=8 -m weighted_mtp.pipelines.run_baseline --config configs/production/baseline.yaml
    … --override training.max_steps=200 --override model.source=storage/models/smollm2-mtp

Stopped by Ctrl-C, SIGTERM or a crash, the same command resumes from the newest checkpoint.
"""

from pathlib import Path
from typing import Literal

import typer

from weighted_mtp.pipelines.policy import PolicyConfig, train_policy
from weighted_mtp.value_weighting.controls import Uniform


class BaselineConfig(PolicyConfig):
    """All options of a run that trains the uniform baseline."""

    pipeline: Literal["baseline"] = "baseline"


def run_baseline(config: BaselineConfig) -> Path | None:
    """Train the baseline; returns the run's folder, None if it was stopped."""
    return train_policy(config, lambda _policy, _tokenizer: Uniform())


if __name__ == "__main__":
    from weighted_mtp.pipelines.commands.train import baseline

    typer.run(baseline)
