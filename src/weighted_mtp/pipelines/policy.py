"""What every policy pipeline is assembled from: configuration, model, data; `fit` does the rest."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.batches import Batch, TokenStore
from weighted_mtp.data.load import DataConfig, load_stores
from weighted_mtp.data.preparation.prepare import prepare_embedded
from weighted_mtp.data.stream import BatchStream
from weighted_mtp.losses.mtp_loss import LossConfig
from weighted_mtp.losses.objective import PolicyObjective
from weighted_mtp.losses.token_ce import head_cross_entropies
from weighted_mtp.models.build import MICRO_SOURCE, ModelConfig, build_policy, save_policy
from weighted_mtp.models.checkpoint import check_context, check_embedded
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.pipelines.fit import FitConfig, Parts, finished, fit, saving
from weighted_mtp.pipelines.inputs import Inputs, data_inputs, digest, template_day
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast, in_bf16, pick_device
from weighted_mtp.runtime.distributed import by_first_rank
from weighted_mtp.runtime.sharding import from_first_rank, placed
from weighted_mtp.training.optim import Group
from weighted_mtp.value_weighting.base import TokenWeighting
from weighted_mtp.value_weighting.confidence import TimesConfidence
from weighted_mtp.value_weighting.controls import PositionMatched, RandomMatched, Shuffled

Control = Literal["none", "shuffled", "random_matched", "position_matched"]


class PolicyConfig(FitConfig):
    """All options of a policy run; each section is described beside what it configures."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    control: Control = "none"
    """Replace the weights by ones that know nothing: each sample's own on other tokens of its response (`shuffled`),
    drawn from all tokens' (`random_matched`), or from those at the same relative position (`position_matched`)."""
    control_of: Literal["credit", "product"] = "credit"
    """What the control replaces: the weighting's part, beside confidence as it is; or their product."""
    gives_credit: ClassVar[bool] = False
    """Whether the pipeline weights tokens by something else than confidence."""

    @model_validator(mode="after")
    def _control_has_an_effect(self) -> "PolicyConfig":
        if self.control == "none" and self.control_of != "credit":
            raise ValueError(f"control_of={self.control_of} has no effect without control: set control=shuffled")
        if self.control_of == "product" and self.loss.confidence is None:
            raise ValueError("control_of=product needs loss.confidence, the other factor: set it, or control_of=credit")
        if self.control != "none" and not self.gives_credit and self.control_of == "credit":
            raise ValueError(
                f"control={self.control}: the baseline has no weights to replace but those of loss.confidence: set it "
                "and control_of=product, or leave control out"
            )
        return self

    @model_validator(mode="after")
    def _extra_heads_learn(self) -> "PolicyConfig":
        given, warmup = self.loss.head_coefficients, self.model.head_warmup_steps
        if self.model.n_future_tokens == 1 and self.loss.detach_extra_heads:
            raise ValueError(
                "loss.detach_extra_heads is about heads 2 … H, and model.n_future_tokens=1: leave it out, or set "
                "n_future_tokens"
            )
        if self.model.heads_only and self.loss.detach_extra_heads:
            raise ValueError("loss.detach_extra_heads has no effect with model.heads_only=true: leave it out")
        only_heads = "head_warmup_steps" if warmup else "heads_only" if self.model.heads_only else None
        if only_heads and given is not None and not any(given[1:]):
            raise ValueError(
                f"model.{only_heads} lets only heads 2 … H learn, and in loss.head_coefficients={list(given)} they "
                f"count nothing: give them a coefficient, or leave {only_heads} out"
            )
        if warmup >= self.training.max_steps:
            raise ValueError(
                f"model.head_warmup_steps={warmup} must be less than training.max_steps={self.training.max_steps}, or "
                "the trunk never learns: lower head_warmup_steps, or raise max_steps"
            )
        return self

    @model_validator(mode="after")
    def _adapters_can_be_kept_alone(self) -> "PolicyConfig":
        if self.training.save_lora_only and self.model.lora is None:
            raise ValueError("training.save_lora_only needs adapters: set model.lora, or leave it out")
        if self.training.save_lora_only and self.model.source == MICRO_SOURCE:
            raise ValueError(
                "training.save_lora_only: adapters on model.source=micro, which is drawn at random, fit no saved "
                "model; make it first (`wmtp models setup --create-micro`) and give its folder"
            )
        return self


WeightingFactory = Callable[[MTPForCausalLM, PreTrainedTokenizerBase], TokenWeighting]
"""The policy in training and its tokenizer → the weighting."""


def computed_by(config: PolicyConfig, inputs: Inputs) -> str:
    """A digest of what a frozen model's output on a run's tokens depends on, to the bit: the model, by `inputs`, and
    what rounding depends on, which rows share a microbatch included.
    """
    device = pick_device(config.runtime)
    machine = [torch.__version__, device.type, str(in_bf16(device, config.runtime))]
    return digest(json.dumps(inputs, sort_keys=True), *machine, config.data, str(config.run.seed))


def head_losses(policy: MTPForCausalLM, runtime: RuntimeConfig) -> Callable[[Batch], Tensor]:
    """Cross-entropy of every head of a policy as it is, batch → (B, T, H): without dropout and gradient."""
    device = pick_device(runtime)

    def evaluated(batch: Batch) -> Tensor:
        training = policy.training
        policy.eval()
        with torch.no_grad(), autocast(device, runtime):
            ce = head_cross_entropies(policy, batch)
        policy.train(training)
        return ce

    return evaluated


def explicit_weighting(config: PolicyConfig, weighting: TokenWeighting, policy: MTPForCausalLM) -> TokenWeighting:
    """All the weights of a run, known before the loss: confidence and control included."""
    if config.loss.confidence is None:
        return controlled(config, weighting)
    if config.control_of == "credit":
        weighting = controlled(config, weighting)
    losses = head_losses(policy, config.runtime)
    weighting = TimesConfidence(weighting, losses, config.loss.confidence, config.loss.confidence_power)
    return weighting if config.control_of == "credit" else controlled(config, weighting)


def controlled(config: PolicyConfig, weighting: TokenWeighting) -> TokenWeighting:
    """The weighting itself, or the control that replaces it."""
    if config.control == "shuffled":
        return Shuffled(weighting, config.run.seed)
    if config.control == "random_matched":
        return RandomMatched(weighting, config.run.seed)
    return PositionMatched(weighting, config.run.seed) if config.control == "position_matched" else weighting


def _objective(config: PolicyConfig, weighting: TokenWeighting, policy: MTPForCausalLM) -> PolicyObjective:
    """The weighted loss. The loss itself knows confidence at no cost; only a control of the product must know it
    before, which takes a forward pass of its own."""
    if config.control_of == "credit":
        return PolicyObjective(controlled(config, weighting), config.loss)
    without = config.loss.model_copy(update={"confidence": None, "confidence_power": 1.0})
    return PolicyObjective(explicit_weighting(config, weighting, policy), without)


def train_policy(
    config: PolicyConfig,
    weighting: WeightingFactory,
    inputs: Inputs | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path | None:
    """Train (or resume training) the policy that `config` describes; returns the run's folder, None if stopped.

    inputs  of the weighting: checksums of what its values come from
    facts   what else `run.json` is to say of the run
    """
    if run := finished(config):
        return run
    parts = policy_parts(config, weighting)
    return fit(config, replace(parts, inputs={**parts.inputs, **(inputs or {})}, facts=facts or {}))


def policy_parts(config: PolicyConfig, weighting: WeightingFactory) -> Parts:
    """The parts of a policy's run; what lies in them is a function of `config` and of the weighting."""
    by_first_rank(lambda: prepare_embedded(*config.data.datasets, root=config.data.root))
    model, tokenizer = from_first_rank(lambda: build_policy(config.model, config.run.seed))
    whole = placed(model, config.runtime)
    day = template_day(config.run.root / config.run.name, config.data.date)
    data = data_inputs(config.data, tokenizer, day)
    training, validation = load_stores(config.data, tokenizer, config.run.seed, day)
    for store in filter(None, (training, validation)):
        check_embedded(model, tokenizer, store.largest_id, "the dataset's prompts")
        check_context(model, int(store.lengths.max()))

    def stream(store: TokenStore, accumulation: int, seed: int) -> BatchStream:
        return BatchStream(store, config.data.max_tokens, accumulation, seed)

    return Parts(
        model=model,
        whole=whole,
        groups=_groups(model, config),
        objective=_objective(config, weighting(model, tokenizer), model),
        stream=stream(training, config.training.gradient_accumulation, config.run.seed),
        validation=stream(validation, 1, 0).first(config.training.validation_batches) if validation else [],
        save_model=saving(config, tokenizer, config.model.source, save_policy),
        inputs=data,
    )


def _groups(model: MTPForCausalLM, config: PolicyConfig) -> Sequence[Group]:
    heads_lr = config.model.heads_lr if config.model.heads_lr is not None else config.optim.lr
    return [
        Group("trunk", model.trunk_parameters(), config.optim.lr, config.model.head_warmup_steps),
        Group("heads", model.head_parameters(), heads_lr),
    ]
