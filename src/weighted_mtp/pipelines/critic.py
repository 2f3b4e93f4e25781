"""A critic as a training run: its options, its parts, and its use once it is trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.data.batches import Batch
from weighted_mtp.data.pairs import PairDataConfig, PairStore, load_pairs
from weighted_mtp.data.preparation.prepare import prepare_embedded
from weighted_mtp.data.stream import BatchStream
from weighted_mtp.data.template import Template
from weighted_mtp.errors import UserError
from weighted_mtp.losses.critic_loss import (
    CriticObjective,
    ImplicitConfig,
    LambdaReturnConfig,
    OutcomeConfig,
    PairwiseRankingConfig,
    implicit_advantages,
)
from weighted_mtp.losses.critic_objective import ImplicitObjective, ValueObjective, ValueObjectiveConfig
from weighted_mtp.losses.objective import Objective
from weighted_mtp.losses.token_ce import next_token_cross_entropies
from weighted_mtp.models.build import save_policy
from weighted_mtp.models.checkpoint import check_context, check_embedded, newest_model
from weighted_mtp.models.convert import load_base, with_heads, without_heads
from weighted_mtp.models.fingerprint import fingerprint
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.models.value import (
    ValueConfig,
    build_value_model,
    choose_trained,
    load_value_model,
    save_value_model,
)
from weighted_mtp.pipelines.fit import FitConfig, Parts, run_options, saving
from weighted_mtp.pipelines.inputs import Inputs, data_inputs, digest, recorded_inputs, template_day
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast, pick_device
from weighted_mtp.runtime.distributed import by_first_rank
from weighted_mtp.runtime.sharding import WholeModel, free_root, from_first_rank, placed, placed_frozen
from weighted_mtp.section import validated
from weighted_mtp.training.optim import Group
from weighted_mtp.training.state import SaveModel
from weighted_mtp.value_weighting.td import CriticOutput, ValueFunction

REFERENCE = "reference"
Model = TypeVar("Model", bound=PreTrainedModel)


class CriticConfig(FitConfig):
    """All options of a critic's run; each section is described beside what it configures."""

    pipeline: Literal["critic"] = "critic"
    value: ValueConfig
    """What the critic is made of."""
    data: PairDataConfig = PairDataConfig()
    """The pairs of correct and incorrect programs that it learns from."""
    critic: CriticObjective = Field(OutcomeConfig(), discriminator="objective")
    """What it learns: one of several objectives, by `critic.objective`."""

    @model_validator(mode="after")
    def _adapters_can_be_kept_alone(self) -> "CriticConfig":
        if self.training.save_lora_only and self.value.backbone != "lora":
            raise ValueError(
                f"training.save_lora_only needs adapters, and value.backbone={self.value.backbone}: set it to lora"
            )
        return self

    @model_validator(mode="after")
    def _starts_where_values_lie(self) -> "CriticConfig":
        regressed = isinstance(self.critic, LambdaReturnConfig) and self.value.head != "sigmoid"
        if regressed and self.value.base_rate != ValueConfig.model_fields["base_rate"].default:
            raise ValueError(
                f"value.base_rate={self.value.base_rate} starts V at log-odds, and critic.objective=lambda_return "
                "learns probabilities: set value.head=sigmoid, or leave base_rate out"
            )
        return self

    @model_validator(mode="after")
    def _margin_can_be_met(self) -> "CriticConfig":
        margin = self.critic.margin if isinstance(self.critic, PairwiseRankingConfig) else None
        if margin is not None and margin >= 1 and self.value.head == "sigmoid":
            raise ValueError(
                f"critic.margin={margin:g} cannot be met with value.head=sigmoid, whose values differ by less than 1: "
                "set margin below 1, or value.head=mlp"
            )
        return self

    @model_validator(mode="after")
    def _lambda_arrives(self) -> "CriticConfig":
        steps = self.critic.lam_steps if isinstance(self.critic, LambdaReturnConfig) else 0
        if steps >= self.training.max_steps:
            raise ValueError(
                f"critic.lam_steps={steps} must be less than training.max_steps={self.training.max_steps}, or lam is "
                "never reached: lower lam_steps, or raise max_steps"
            )
        return self

    @model_validator(mode="after")
    def _implicit_has_no_head(self) -> "CriticConfig":
        for option in ("head", "base_rate", "head_lr"):
            given = getattr(self.value, option) != ValueConfig.model_fields[option].default
            if isinstance(self.critic, ImplicitConfig) and given:
                raise ValueError(
                    f"value.{option} has no effect with critic.objective=implicit, a critic without value head"
                )
        if isinstance(self.critic, ImplicitConfig) and self.value.backbone == "frozen":
            raise ValueError(
                "value.backbone=frozen leaves critic.objective=implicit nothing to train: use full or lora"
            )
        return self


@dataclass(frozen=True)
class _Learner:
    """What of the parts depends on the objective."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    whole: WholeModel
    groups: Sequence[Group]
    objective: Objective
    save_model: SaveModel
    inputs: Inputs


def critic_parts(config: CriticConfig) -> Parts:
    """The parts of a critic's run; what lies in them is a function of `config`."""
    by_first_rank(lambda: prepare_embedded(*config.data.datasets, root=config.data.root))
    torch.manual_seed(config.run.seed)
    critic = config.critic
    learner = _policy_copy(config, critic) if isinstance(critic, ImplicitConfig) else _value_model(config, critic)
    day = template_day(config.run.root / config.run.name, config.data.date)
    data = data_inputs(config.data, learner.tokenizer, day)
    train, validation = load_pairs(config.data, learner.tokenizer, config.run.seed, day)

    def stream(pairs: PairStore, accumulation: int, seed: int) -> BatchStream:
        check_embedded(learner.model, learner.tokenizer, pairs.store.largest_id, "the dataset's prompts")
        check_context(learner.model, int(pairs.store.lengths.max()))
        return BatchStream(pairs.store, config.data.max_tokens, accumulation, seed, together=pairs.pairs)

    held_out = stream(validation, 1, 0).first(config.training.validation_batches) if validation else []
    pairs = {"train": len(train.pairs), "validation": sum(len(batch.sample_ids) // 2 for batch in held_out)}
    return Parts(
        model=learner.model,
        whole=learner.whole,
        groups=learner.groups,
        objective=learner.objective,
        stream=stream(train, config.training.gradient_accumulation, config.run.seed),
        validation=held_out,
        save_model=learner.save_model,
        inputs={**data, **learner.inputs},
        facts={"pairs": pairs},
    )


def _value_model(config: CriticConfig, critic: ValueObjectiveConfig) -> _Learner:
    """A backbone with a value head."""
    model, tokenizer = from_first_rank(lambda: build_value_model(config.value, config.run.seed))
    whole = placed(model, config.runtime)
    groups = [
        Group("backbone", model.backbone_parameters(), config.optim.lr),
        Group("value head", model.head_parameters(), config.value.head_lr or config.optim.lr),
    ]
    save = saving(config, tokenizer, config.value.source, save_value_model)
    return _Learner(model, tokenizer, whole, groups, ValueObjective(critic), save, {})


def _policy_copy(config: CriticConfig, critic: ImplicitConfig) -> _Learner:
    """The copy of the reference that DPO moves away from it, with one head."""

    def copied() -> tuple[MTPForCausalLM, PreTrainedTokenizerBase]:
        base, tokenizer = load_base(config.value.source, "float32")
        model = with_heads(without_heads(base), 1)
        choose_trained(model, config.value)
        return model, tokenizer

    model, tokenizer = from_first_rank(copied)
    whole = placed(model, config.runtime)
    reference = load_reference(config.value.source, config.runtime)
    groups = [Group("policy copy", model.parameters(), config.optim.lr)]
    save = saving(config, tokenizer, config.value.source, save_policy)
    objective = ImplicitObjective(critic, reference.values)
    return _Learner(model, tokenizer, whole, groups, objective, save, {REFERENCE: reference.checksum})


@dataclass(frozen=True)
class Critic:
    """A trained critic, frozen.

    values     batch → (B, T); see `ValueFunction`
    output_kind  what `values` returns
    tokenizer  the one whose tokens it judges
    template   how problems were prompted in its training
    inputs     checksums of what the values come from
    """

    values: ValueFunction
    output_kind: CriticOutput
    tokenizer: PreTrainedTokenizerBase
    template: Template
    inputs: Inputs


@dataclass(frozen=True)
class Reference:
    """A frozen causal LM to compare with.

    values     batch → (B, T), cross-entropy of its next-token prediction; of a policy, that of trunk and head 1
    tokenizer  its own
    checksum   of its weights
    """

    values: ValueFunction
    tokenizer: PreTrainedTokenizerBase
    checksum: str


def critic_config(run: Path) -> CriticConfig:
    """The options of a critic's run. Raises UserError if `run` is not the folder of one."""
    try:
        options = run_options(run)
    except UserError as error:
        raise UserError(f"critic {run}: not the folder of a critic's run ({error})") from error
    if options["pipeline"] != "critic":
        raise UserError(
            f"critic {run}: the run of a {options['pipeline']} pipeline, not of a critic; train one with "
            "`wmtp train critic`"
        )
    return validated(CriticConfig, options, f"{run}: ")


def critic_of_run(
    run: Path, runtime: RuntimeConfig, accept_changes: bool = False, references: dict[str, Reference] | None = None
) -> Critic:
    """The critic that a run trained, frozen, on the device that `runtime` names.

    accept_changes  take an `implicit` critic even if the reference has other weights than those it moved away from
    references      those that other critics have loaded, by source; a new one is added

    Raises UserError if `run` is no run of a critic, has no checkpoint yet, or has lost its reference.
    """
    config = critic_config(run)
    folder = newest_model(run)
    if not isinstance(config.critic, ImplicitConfig):
        model, tokenizer, weights = _from_first_rank(lambda: load_value_model(folder, "float32"))
        values = _evaluating(model, lambda batch: model(batch.input_ids), runtime)
        output_kind = "probability" if isinstance(config.critic, LambdaReturnConfig) else model.output_kind
        return Critic(values, output_kind, tokenizer, config.data.template, {"critic": digest(weights, config.critic)})
    beta = config.critic.beta
    moved, reference = load_reference(str(folder), runtime), _shared(config.value.source, runtime, references)
    if not accept_changes:
        _check_reference(run, config.value.source, reference)

    def advantages(batch: Batch) -> Tensor:
        return implicit_advantages(-moved.values(batch), -reference.values(batch), batch.response_mask, beta)

    inputs = {"critic": digest(moved.checksum, config.critic), "reference of the critic": reference.checksum}
    return Critic(advantages, "advantage", moved.tokenizer, config.data.template, inputs)


def load_critics(runs: Sequence[Path], runtime: RuntimeConfig, accept_changes: bool = False) -> Critic:
    """One critic, or an ensemble that returns the mean of its members' outputs.

    Raises UserError as `critic_of_run`, and for members that differ in what they give, in tokens or in the prompts that
    they were trained with.
    """
    references: dict[str, Reference] = {}
    first, *others = critics = [critic_of_run(run, runtime, accept_changes, references) for run in runs]
    if not others:
        return first
    for run, other in zip(runs[1:], others, strict=True):
        check_same_tokens(first.tokenizer, other.tokenizer, f"critic {run}")
        if (other.output_kind, other.template) != (first.output_kind, first.template):
            raise UserError(
                f"critic {run}: gives {other.output_kind}s for prompts by {other.template}, but {runs[0]} "
                f"{first.output_kind}s by {first.template}: an ensemble is of critics of one kind"
            )
    named = zip(runs, critics, strict=True)
    inputs = {f"{name} ({run})": checksum for run, critic in named for name, checksum in critic.inputs.items()}

    def mean(batch: Batch) -> Tensor:
        return torch.stack([critic.values(batch).float() for critic in critics]).mean(0)

    return replace(first, values=mean, inputs=inputs)


def _shared(source: str, runtime: RuntimeConfig, references: dict[str, Reference] | None) -> Reference:
    """The reference of `source`, loaded once for all critics, and evaluated once for the batch that all of them see."""
    if references is None:
        return load_reference(source, runtime)
    if source not in references:
        reference = load_reference(source, runtime)
        references[source] = replace(reference, values=_once_per_batch(reference.values))
    return references[source]


def _once_per_batch(values: ValueFunction) -> ValueFunction:
    last: list[tuple[Batch, Tensor]] = []

    def evaluate(batch: Batch) -> Tensor:
        if not last or last[0][0] is not batch:
            last[:] = [(batch, values(batch))]
        return last[0][1]

    return evaluate


def _check_reference(run: Path, source: str, reference: Reference) -> None:
    """Refuse log-ratios to another model than the one that the critic was trained against."""
    known = by_first_rank(lambda: recorded_inputs(run)).get(REFERENCE, reference.checksum)
    if known != reference.checksum:
        raise UserError(
            f"critic {run}: its reference, {source}, has other weights than when it was trained, and its advantages "
            "are log-ratios to those: put them back, train the critic again, or continue with --accept-changes"
        )


def load_reference(source: str, runtime: RuntimeConfig) -> Reference:
    """A frozen model to compare with.

    source  a run, a model folder, a .gguf file or a hub id
    """

    def loaded() -> tuple[MTPForCausalLM, PreTrainedTokenizerBase]:
        model, tokenizer = load_base(source, "float32")
        return model if isinstance(model, MTPForCausalLM) else with_heads(model, 1), tokenizer

    policy, tokenizer, checksum = _from_first_rank(loaded)
    values = _evaluating(policy, lambda batch: next_token_cross_entropies(policy, batch), runtime)
    return Reference(values, tokenizer, checksum)


def _from_first_rank(
    load: Callable[[], tuple[Model, PreTrainedTokenizerBase]],
) -> tuple[Model, PreTrainedTokenizerBase, str]:
    """What `load` gives the first rank, as `from_first_rank`, with a fingerprint of the weights."""

    def loaded() -> tuple[Model, tuple[PreTrainedTokenizerBase, str]]:
        model, tokenizer = load()
        return model, (tokenizer, fingerprint(model.named_parameters()))

    model, (tokenizer, weights) = from_first_rank(loaded)
    return model, tokenizer, weights


def _evaluating(model: PreTrainedModel, compute: ValueFunction, runtime: RuntimeConfig) -> ValueFunction:
    """`compute`, a function of a frozen model's output, on the run's device and in its precision, without gradients."""
    device = pick_device(runtime)
    placed_frozen(model, runtime)

    def evaluate(batch: Batch) -> Tensor:
        with torch.no_grad(), autocast(device, runtime):
            values = compute(batch)
        free_root(model)
        return values

    return evaluate


def check_same_tokens(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, whose: str) -> None:
    """Refuse a critic or reference that would read other tokens into the policy's token ids."""
    if tokenizer.get_vocab() != other.get_vocab():
        raise UserError(f"{whose}: has another vocabulary than the policy; use one with the same tokenizer")
