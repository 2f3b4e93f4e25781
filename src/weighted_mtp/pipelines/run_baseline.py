"""Uniform-weight multi-token prediction: the baseline that every weighting must beat.

    PYTHONPATH=src python src/weighted_mtp/pipelines/run_baseline.py --config configs/local/baseline_local.yaml
    … --override training.max_steps=200 --override model.source=storage/models/smollm2-mtp

Stopped by Ctrl-C, SIGTERM or a crash, the same command goes on from the newest checkpoint.
"""

from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.config import load_config
from weighted_mtp.losses.objective import PolicyObjective
from weighted_mtp.pipelines.command import one_line_errors
from weighted_mtp.pipelines.policy import PolicyConfig, train_policy
from weighted_mtp.value_weighting.controls import Uniform

ConfigFile = Annotated[Path, typer.Option("--config", help="YAML file, for example configs/local/baseline_local.yaml.")]
Overrides = Annotated[list[str], typer.Option("--override", help="Set one option: a.b=value. May be repeated.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def run_baseline(config: PolicyConfig) -> Path:
    """Train the baseline; returns the run's folder."""
    return train_policy(config, PolicyObjective(Uniform(), config.loss))


def main(config: ConfigFile, override: Overrides = [], debug: Debug = False) -> None:  # noqa: B006
    """Train a policy with all tokens weighted equally."""
    with one_line_errors(debug):
        print(run_baseline(load_config(PolicyConfig, config, override)))


if __name__ == "__main__":
    typer.run(main)
