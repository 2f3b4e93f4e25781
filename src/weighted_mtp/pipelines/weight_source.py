"""What gives a run's token weights: a critic, or a verifiable or Rho-1 run as of its newest checkpoint."""

import datetime
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.batches import Batch
from weighted_mtp.data.load import SplitsConfig
from weighted_mtp.errors import UserError
from weighted_mtp.models.checkpoint import newest_model
from weighted_mtp.models.convert import load_base
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.pipelines.config import WeightsConfig
from weighted_mtp.pipelines.critic import (
    Critic,
    check_same_tokens,
    critic_config,
    critic_of_run,
    load_critics,
    load_reference,
)
from weighted_mtp.pipelines.fit import run_options
from weighted_mtp.pipelines.inputs import trained_day
from weighted_mtp.pipelines.kinds import pipeline_of
from weighted_mtp.pipelines.policy import explicit_weighting, head_losses
from weighted_mtp.pipelines.run_rho1 import Rho1RunConfig
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig, settled_strength
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.sharding import placed_frozen
from weighted_mtp.section import validated
from weighted_mtp.value_weighting.base import ObjectiveState, TokenWeighting
from weighted_mtp.value_weighting.rho1 import Rho1Weighting
from weighted_mtp.value_weighting.td import TDConfig, TDWeighting


@dataclass(frozen=True)
class Judgement:
    """What a critic or reference says of tokens.

    of      batch → (B, T)
    centre  the value that speaks neither for nor against a token
    """

    title: str
    explanation: str
    of: Callable[[Batch], Tensor]
    centre: float = 0.0


@dataclass(frozen=True)
class WeightSource:
    """Where weights come from.

    weights    batches, of which the second argument says which hold correct programs → (B, T) or (B, T, H) each
    judgement  what weights are made of
    value      what the critic makes of the program so far; None if nothing does
    localises  whether a low judgement is meant to show what is wrong
    day        what prompts took for today in training, if they name a date
    """

    weights: Callable[[Sequence[Batch], Sequence[bool]], list[Tensor]]
    judgement: Judgement
    value: Judgement | None
    localises: bool
    tokenizer: PreTrainedTokenizerBase
    template: str
    day: datetime.date | None
    max_length: int
    runtime: RuntimeConfig
    notes: tuple[str, ...]


def critic_source(run: Path) -> WeightSource:
    """Only a critic: the weights that `weighting` with its defaults would give, whitened by the correct programs.

    Those are what a policy learns from; the moments of a training run are theirs.
    """
    config = critic_config(run)
    data, runtime, critic = config.data, config.runtime, critic_of_run(run, config.runtime)
    weighting = TDWeighting(TDConfig(), critic.values, critic.output_kind)
    shown = TDWeighting(_held(TDConfig()), critic.values, critic.output_kind)

    def weights(batches: Sequence[Batch], correct: Sequence[bool]) -> list[Tensor]:
        learned_from = [batch for batch, is_correct in zip(batches, correct, strict=True) if is_correct]
        if not learned_from:
            raise UserError(
                f"--critic {run}: no correct program of the problems shown is within its data.max_length="
                f"{data.max_length}, and those set the scale of its weights; show more problems, or another --dataset"
            )
        _, state = weighting(learned_from, weighting.initial_state())
        return shown(batches, state)[0]

    notes = (f"Critic {run}; weighting with its default options, moments of the correct programs shown.",)
    return WeightSource(
        weights,
        _delta(shown),
        _value(critic),
        True,
        critic.tokenizer,
        data.template,
        trained_day(run),
        data.max_length,
        runtime,
        notes,
    )


def run_source(run: Path) -> WeightSource:
    """A run that is weighted by a critic or by Rho-1, as of its newest checkpoint.

    Raises UserError if `run` is no such run or has no checkpoint yet.
    """
    options = run_options(run)
    config = validated(pipeline_of(options, str(run)).schema, options, f"{run}: ")
    if isinstance(config, Rho1RunConfig):
        return _rho1_source(run, config)
    if not isinstance(config, VerifiableConfig):
        raise UserError(
            f"--run {run}: the run of a {config.pipeline} pipeline, not a run with token weights (verifiable or rho1); "
            "for a critic give --critic"
        )
    critic = load_critics(config.critics, config.runtime)
    chosen = config.weighting.model_copy(update={"strength": settled_strength(config)})
    held = TDWeighting(_held(chosen), critic.values, critic.output_kind)
    weighting = explicit_weighting(config, held, _policy(run, config.runtime)[0])
    state = _saved_state(run, weighting)
    critics = ", ".join(map(str, config.critics))
    notes = (
        f"Run {run}: weights of critic {critics}, options and running moments of the run's newest checkpoint, "
        f"control {config.control}.",
    )
    return WeightSource(
        lambda batches, _correct: weighting(batches, state)[0],
        _delta(held),
        _value(critic),
        True,
        critic.tokenizer,
        config.data.template,
        trained_day(run),
        config.data.max_length,
        config.runtime,
        notes,
    )


def _rho1_source(run: Path, config: Rho1RunConfig) -> WeightSource:
    policy, tokenizer = _policy(run, config.runtime)
    reference = load_reference(config.reference, config.runtime)
    check_same_tokens(tokenizer, reference.tokenizer, f"reference={config.reference}")
    rho1 = Rho1Weighting(config.rho1, head_losses(policy, config.runtime), reference.values)
    weighting = explicit_weighting(config, rho1, policy)
    state = _saved_state(run, weighting)
    notes = (
        f"Run {run}: Rho-1 with reference {config.reference}, policy of the newest checkpoint, control "
        f"{config.control}. The top {config.rho1.k_percent:g} % are chosen among the programs shown.",
    )
    return WeightSource(
        lambda batches, _correct: weighting(batches, state)[0],
        Judgement(
            "score",
            f"What tokens are ranked by ({config.rho1.mode}; head 1), in nats.",
            lambda batch: rho1.scores(batch)[..., 0],
        ),
        None,
        False,
        tokenizer,
        config.data.template,
        trained_day(run),
        config.data.max_length,
        config.runtime,
        notes,
    )


def _policy(run: Path, runtime: RuntimeConfig) -> tuple[MTPForCausalLM, PreTrainedTokenizerBase]:
    """The policy of a run's newest checkpoint, on its device."""
    policy, tokenizer = load_base(str(newest_model(run)), "float32")
    placed_frozen(policy, runtime)
    return cast(MTPForCausalLM, policy), tokenizer


def _delta(weighting: TDWeighting) -> Judgement:
    return Judgement(
        "δ", "What the critic says of a token: how much its value rises or falls with it.", weighting.td_errors
    )


def _value(critic: Critic) -> Judgement:
    """V after each token; of a critic that gives advantages their sum so far, which is its value but for a constant."""
    if critic.output_kind == "advantage":
        return Judgement(
            "value",
            "What the critic makes of the program up to a token: the sum of δ.",
            lambda b: critic.values(b).cumsum(1),
        )
    if critic.output_kind == "probability":
        return Judgement("value", "P(the program will be correct) after a token.", critic.values, 0.5)
    return Judgement("value", "The critic's score after a token; of an outcome critic log-odds.", critic.values)


def _held(config: TDConfig) -> TDConfig:
    """The weighting with moments that looking does not move: a step's share in them is 0, as no training may set it."""
    return config.model_copy(update={"momentum": 0.0, "warmup_steps": 0})


def _saved_state(run: Path, weighting: TokenWeighting) -> ObjectiveState:
    """The weighting's state in the newest checkpoint."""
    contents = {"objective": dict(weighting.initial_state())}
    if contents["objective"]:
        with warnings.catch_warnings(action="ignore"):  # DCP says that there is no process group: there is none
            dcp_load(contents, checkpoint_id=newest_model(run).parent / "state")
    return contents["objective"]


def split_of(config: WeightsConfig) -> Path:
    """The folder of a split: of what the run learned from, unless others are given; of several datasets the first."""
    data = run_options(config.trained).get("data", {})
    own = validated(SplitsConfig, {name: data[name] for name in SplitsConfig.model_fields if name in data})
    dataset = (config.data_root or own.root) / (config.dataset or own.datasets[0])
    return dataset / (config.split or own.validation or own.train)
