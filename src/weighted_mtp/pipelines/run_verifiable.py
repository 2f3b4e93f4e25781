"""Verifiable WMTP: a critic's advantages weight the tokens, V(t) → TD error → whitening → exp(A/β) → weighted CE.

    PYTHONPATH=src python src/weighted_mtp/pipelines/run_verifiable.py --config configs/local/verifiable_local.yaml
    torchrun --nproc_per_node=8 -m weighted_mtp.pipelines.run_verifiable --config configs/production/verifiable.yaml
    … --override weighting.beta=0.5 --override control=shuffled

Stopped by Ctrl-C, SIGTERM or a crash, the same command resumes from the newest checkpoint.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import typer
from pydantic import model_validator
from transformers import PreTrainedTokenizerBase

from weighted_mtp.errors import UserError
from weighted_mtp.losses.mtp_loss import check_one_per_head
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.pipelines.critic import Critic, check_same_tokens, critic_config, load_critics
from weighted_mtp.pipelines.doubts import doubts
from weighted_mtp.pipelines.fit import finished
from weighted_mtp.pipelines.frozen_cache import FrozenCacheConfig, kept
from weighted_mtp.pipelines.gate import GateConfig, best_strength, evaluation_of_programs, predicted_gains, prediction
from weighted_mtp.pipelines.policy import PolicyConfig, WeightingFactory, computed_by, train_policy
from weighted_mtp.progress import say
from weighted_mtp.runtime.distributed import by_first_rank
from weighted_mtp.value_weighting.base import TokenWeighting
from weighted_mtp.value_weighting.td import TDConfig, TDWeighting

STRENGTHS = (0.0, 0.5, 1.0)
"""What `weighting.strength: auto` chooses from."""


class VerifiableConfig(PolicyConfig):
    """All options of a run that is weighted by a critic."""

    pipeline: Literal["verifiable"] = "verifiable"
    critic: Path | tuple[Path, ...]
    """Folder of the critic's run; of several, [runs/a, runs/b], the mean of what they give."""
    weighting: TDConfig = TDConfig()
    """How the critic's values become token weights."""
    gate: GateConfig | None = None
    """Predict before training whether the weights will help, {} for that with all defaults; null for not at all."""
    frozen_cache: FrozenCacheConfig | None = None
    """Keep what the critic returns on disk, {} for that with all defaults; null for not at all."""
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
    def _auto_is_settled(self) -> "VerifiableConfig":
        if self.weighting.strength == "auto" and self.gate is None:
            raise ValueError("weighting.strength=auto is what the gate predicts to be best: set gate={}, or a strength")
        return self

    @model_validator(mode="after")
    def _the_gate_has_something_to_predict(self) -> "VerifiableConfig":
        if self.gate is not None and self.model.heads_only:
            raise ValueError(
                "gate predicts pass@1, and model.heads_only=true leaves head 1's texts as they are: leave gate out"
            )
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
    if run := finished(config):
        return run
    critic = load_critics(config.critics, config.runtime, config.run.accept_changes)
    if config.frozen_cache is not None:
        critic = replace(critic, values=kept(critic.values, config.frozen_cache, computed_by(config, critic.inputs)))
    for doubt in (doubt for run in config.critics for doubt in doubts(run)):
        say(doubt)
    strength, facts = _settled(config, critic)
    return train_policy(config, weighted_by(config, critic, strength), critic.inputs, facts)


def weighted_by(config: VerifiableConfig, critic: Critic, strength: float) -> WeightingFactory:
    """The weighting that `config` describes, with this strength."""
    chosen = config.weighting.model_copy(update={"strength": strength})

    def weighting(policy: MTPForCausalLM, tokenizer: PreTrainedTokenizerBase) -> TokenWeighting:
        check_same_tokens(tokenizer, critic.tokenizer, f"critic={config.critics[0]}")
        _check_same_questions(config, critic)
        if (strengths := chosen.head_strengths) is not None:
            check_one_per_head("weighting.head_strengths", strengths, policy.config.n_future_tokens)
        return TDWeighting(chosen, critic.values, critic.output_kind)

    return weighting


def settled_strength(config: VerifiableConfig) -> float:
    """`weighting.strength` of a run that is there: of `auto`, what was settled when it began."""
    given = config.weighting.strength
    return given if not isinstance(given, str) else float(_recorded_gate(config)["strength"])


def _settled(config: VerifiableConfig, critic: Critic) -> tuple[float, dict[str, Any]]:
    """The strength of the weights, and what `run.json` is to say of how it came about."""
    given = config.weighting.strength
    if config.gate is None:
        assert not isinstance(given, str)
        return given, {}
    recorded = by_first_rank(lambda: _recorded_gate(config))
    if not recorded:
        recorded = _predicted(config, config.gate, critic)
    return float(recorded["strength"]), {"gate": recorded}


def _predicted(config: VerifiableConfig, gate: GateConfig, critic: Critic) -> dict[str, Any]:
    """What pilots say of the strengths that come into question, and the best of them; said aloud as well."""
    given = config.weighting.strength
    strengths = STRENGTHS if isinstance(given, str) else (given,)
    evaluation = by_first_rank(lambda: evaluation_of_programs(gate.programs, critic_config(config.critics[0]).data))
    at_once = config.model_copy(update={"weighting": config.weighting.model_copy(update={"anneal_steps": 0})})
    pilots = [(config, weighted_by(at_once, critic, strength)) for strength in strengths]
    gains, judged = predicted_gains(pilots, gate.steps, evaluation)
    by_strength = {strength: gain.lower for strength, gain in zip(strengths, gains, strict=True)}
    for strength, gain in by_strength.items():
        say(f"gate: strength {strength:g}: {prediction(gain)}")
    say(f"gate: {gate.steps} steps each, over uniform weights, on {judged}")
    best = best_strength(by_strength) if isinstance(given, str) else given
    predicted = {f"{strength:g}": asdict(gain) for strength, gain in by_strength.items()}
    return {"strength": best, "predicted": predicted, "steps": gate.steps, "programs": str(evaluation.folder)}


def _recorded_gate(config: VerifiableConfig) -> dict[str, Any]:
    """What the gate said when the run began; {} where it has not."""
    file = config.run.root / config.run.name / "run.json"
    found: dict[str, Any] = json.loads(file.read_text()).get("gate", {}) if file.is_file() else {}
    return found


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
