"""Reference tuning: supervised fine-tuning on correct programs, next token only.

    PYTHONPATH=src python src/weighted_mtp/pipelines/run_ref_tuning.py --config configs/local/ref_tuning_local.yaml
    torchrun --nproc_per_node=8 -m weighted_mtp.pipelines.run_ref_tuning --config configs/production/ref_tuning.yaml

What it trains is frozen afterwards: Rho-1 compares the policy with it, critics start from it. Stopped by Ctrl-C,
SIGTERM or a crash, the same command resumes from the newest checkpoint.
"""

from pathlib import Path
from typing import Literal

import typer

from weighted_mtp.errors import UserError
from weighted_mtp.pipelines.policy import PolicyConfig, train_policy
from weighted_mtp.value_weighting.controls import Uniform


class RefTuningConfig(PolicyConfig):
    """All options of a run that trains a reference."""

    pipeline: Literal["ref_tuning"] = "ref_tuning"


def run_ref_tuning(config: RefTuningConfig) -> Path | None:
    """Train the reference, a policy of one head; returns the run's folder, None if it was stopped.

    Raises UserError for another number of heads: only head 1 of a reference is ever evaluated.
    """
    if config.model.n_future_tokens != 1:
        raise UserError(
            f"model.n_future_tokens={config.model.n_future_tokens}: a reference predicts the next token; set it to 1"
        )
    return train_policy(config, lambda _policy, _tokenizer: Uniform())


if __name__ == "__main__":
    from weighted_mtp.pipelines.commands.train import ref_tuning

    typer.run(ref_tuning)
