"""Verifiable WMTP: a critic's advantages weight the tokens, V(t) → TD error → whitening → exp(A/β) → weighted CE.

    PYTHONPATH=src python src/weighted_mtp/pipelines/run_verifiable.py --config configs/local/verifiable_local.yaml
    torchrun --nproc_per_node=8 -m weighted_mtp.pipelines.run_verifiable --config configs/production/verifiable.yaml
    … --override weighting.beta=0.5 --override control=shuffled

Stopped by Ctrl-C, SIGTERM or a crash, the same command resumes from the newest checkpoint.
"""

from pathlib import Path
from typing import ClassVar, Literal

import typer
from pydantic import model_validator
from transformers import PreTrainedTokenizerBase

from weighted_mtp.errors import UserError
from weighted_mtp.losses.mtp_loss import check_one_per_head
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.pipelines.critic import Critic, check_same_tokens, load_critics
from weighted_mtp.pipelines.doubts import doubts
from weighted_mtp.pipelines.policy import PolicyConfig, train_policy
from weighted_mtp.progress import say
from weighted_mtp.value_weighting.base import TokenWeighting
from weighted_mtp.value_weighting.td import TDConfig, TDWeighting


class VerifiableConfig(PolicyConfig):
    """All options of a run that is weighted by a critic."""

    pipeline: Literal["verifiable"] = "verifiable"
    critic: Path | tuple[Path, ...]
    """Folder of the critic's run; of several, [runs/a, runs/b], the mean of what they give."""
    weighting: TDConfig = TDConfig()
    gives_credit: ClassVar[bool] = True

    @property
    def critics(self) -> tuple[Path, ...]:
        """The runs in `critic`."""
        return (self.critic,) if isinstance(self.critic, Path) else self.critic

    @model_validator(mode="after")
    def _each_critic_once(self) -> "VerifiableConfig":
        if not 0 < len(set(self.critics)) == len(self.critics):
            raise ValueError(f"critic={[*map(str, self.critics)]}: give at least one, and each once")
        return self

    @model_validator(mode="after")
    def _annealing_ends(self) -> "VerifiableConfig":
        if self.weighting.anneal_steps >= self.training.max_steps:
            raise ValueError(
                f"weighting.anneal_steps={self.weighting.anneal_steps} must be less than "
                f"training.max_steps={self.training.max_steps}, or no step has the critic's weights in full: lower "
                "anneal_steps, or raise max_steps"
            )
        return self

    @model_validator(mode="after")
    def _every_sample_ends_in_the_reward(self) -> "VerifiableConfig":
        sampling = self.data.sampling
        unlike = self.data.too_long == "truncate" or (sampling is not None and sampling.labels == "all")
        if self.weighting.terminal_reward is not None and unlike:
            raise ValueError(
                "weighting.terminal_reward is that of every sample: leave it out, or set data.sampling.labels=correct "
                "and data.too_long=drop, so that all are whole correct programs"
            )
        return self


def run_verifiable(config: VerifiableConfig) -> Path | None:
    """Train with a critic's token weights; returns the run's folder, None if it was stopped."""
    critic = load_critics(config.critics, config.runtime, config.run.accept_changes)
    for doubt in (doubt for run in config.critics for doubt in doubts(run)):
        say(doubt)

    def weighting(policy: MTPForCausalLM, tokenizer: PreTrainedTokenizerBase) -> TokenWeighting:
        check_same_tokens(tokenizer, critic.tokenizer, f"critic={config.critics[0]}")
        _check_same_questions(config, critic)
        if (strengths := config.weighting.head_strengths) is not None:
            check_one_per_head("weighting.head_strengths", strengths, policy.config.n_future_tokens)
        return TDWeighting(config.weighting, critic.values, critic.output_kind)

    return train_policy(config, weighting, critic.inputs)


def _check_same_questions(config: VerifiableConfig, critic: Critic) -> None:
    """Refuse a critic whose values are conditioned on prompts of another kind."""
    if critic.template != config.data.template:
        raise UserError(
            f"data.template={config.data.template}, but critic={config.critics[0]} was trained with {critic.template}: "
            "use one template for both"
        )


if __name__ == "__main__":
    from weighted_mtp.pipelines.commands.train import verifiable

    typer.run(verifiable)
