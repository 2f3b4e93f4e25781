"""Rho-1: learn from the tokens whose loss a reference says can still be reduced (arXiv 2404.07965).

    PYTHONPATH=src python src/weighted_mtp/pipelines/run_rho1.py --config configs/local/rho1_local.yaml
    torchrun --nproc_per_node=8 -m weighted_mtp.pipelines.run_rho1 --config configs/production/rho1.yaml
    … --override rho1.mode=absolute --override rho1.k_percent=70

Stopped by Ctrl-C, SIGTERM or a crash, the same command resumes from the newest checkpoint.
"""

from pathlib import Path
from typing import ClassVar, Literal

import typer
from pydantic import model_validator
from transformers import PreTrainedTokenizerBase

from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.pipelines.critic import REFERENCE, check_same_tokens, load_reference
from weighted_mtp.pipelines.frozen_cache import FrozenCacheConfig, kept
from weighted_mtp.pipelines.policy import PolicyConfig, computed_by, head_losses, train_policy
from weighted_mtp.value_weighting.base import TokenWeighting
from weighted_mtp.value_weighting.rho1 import Rho1Config, Rho1Weighting


class Rho1RunConfig(PolicyConfig):
    """All options of a Rho-1 run."""

    pipeline: Literal["rho1"] = "rho1"
    reference: str
    """Run of `run_ref_tuning`, model folder, .gguf file or hub id, with the policy's tokenizer."""
    rho1: Rho1Config = Rho1Config()
    """Which tokens are selected."""
    frozen_cache: FrozenCacheConfig | None = None
    """Keep what the reference returns on disk, {} for that with all defaults; null for not at all."""
    gives_credit: ClassVar[bool] = True

    @model_validator(mode="after")
    def _targets_are_selected(self) -> "Rho1RunConfig":
        if self.loss.alignment != "target":
            raise ValueError(
                f"loss.alignment={self.loss.alignment}: Rho-1 selects tokens as the ones predicted; set it to target"
            )
        return self


def run_rho1(config: Rho1RunConfig) -> Path | None:
    """Train with Rho-1 selection; returns the run's folder, None if it was stopped."""
    reference = load_reference(config.reference, config.runtime)
    inputs = {REFERENCE: reference.checksum}
    values = reference.values
    if config.frozen_cache is not None:
        values = kept(values, config.frozen_cache, computed_by(config, inputs))

    def weighting(policy: MTPForCausalLM, tokenizer: PreTrainedTokenizerBase) -> TokenWeighting:
        check_same_tokens(tokenizer, reference.tokenizer, f"reference={config.reference}")
        return Rho1Weighting(config.rho1, head_losses(policy, config.runtime), values)

    return train_policy(config, weighting, inputs)


if __name__ == "__main__":
    from weighted_mtp.pipelines.commands.train import rho1

    typer.run(rho1)
