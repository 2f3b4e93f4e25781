"""The critic: learns, from pairs of correct and incorrect programs, which tokens decide.

    PYTHONPATH=src python src/weighted_mtp/pipelines/run_critic.py --config configs/local/critic_local.yaml
    torchrun --nproc_per_node=8 -m weighted_mtp.pipelines.run_critic --config configs/production/critic_mlp.yaml
    … --override critic.objective=pairwise_ranking --override critic.pooling=last

Stopped by Ctrl-C, SIGTERM or a crash, the same command resumes from the newest checkpoint.
"""

from pathlib import Path

import typer

from weighted_mtp.pipelines.critic import CriticConfig, critic_parts
from weighted_mtp.pipelines.fit import finished, fit


def run_critic(config: CriticConfig) -> Path | None:
    """Train a critic; returns the run's folder, None if it was stopped."""
    return finished(config) or fit(config, critic_parts(config))


if __name__ == "__main__":
    from weighted_mtp.pipelines.commands.train import critic

    typer.run(critic)
