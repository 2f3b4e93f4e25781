"""What every policy pipeline is assembled from: configuration, model, data; `fit` does the rest."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import model_validator
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.batches import TokenStore
from weighted_mtp.data.load import DataConfig, load_stores
from weighted_mtp.data.prepare import prepare_embedded
from weighted_mtp.data.stream import BatchStream
from weighted_mtp.losses.mtp import LossConfig
from weighted_mtp.losses.objective import PolicyObjective
from weighted_mtp.models.build import MICRO, ModelConfig, build_policy, save_policy
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.pipelines.fit import FitConfig, Parts, finished, fit, pad_id, saving
from weighted_mtp.runtime.distributed import by_first_rank
from weighted_mtp.runtime.sharding import from_first_rank, placed
from weighted_mtp.training.optim import Group
from weighted_mtp.value_weighting.base import TokenWeighting
from weighted_mtp.value_weighting.controls import RandomMatched, Shuffled


class PolicyConfig(FitConfig):
    """All options of a policy run; each section is described beside what it configures."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()

    @model_validator(mode="after")
    def _adapters_can_be_kept_alone(self) -> "PolicyConfig":
        if self.training.save_lora_only and self.model.lora is None:
            raise ValueError("training.save_lora_only needs adapters: set model.lora, or leave it out")
        if self.training.save_lora_only and self.model.source == MICRO:
            raise ValueError(
                "training.save_lora_only: adapters on model.source=micro, which is drawn anew, fit no saved model; "
                "make it first (`wmtp models setup --create-micro`) and give its folder"
            )
        return self


Control = Literal["none", "shuffled", "random_matched"]
"""`shuffled`: each sample's weights on other tokens of its response; `random_matched`: weights drawn from all."""

WeightingFactory = Callable[[MTPForCausalLM, PreTrainedTokenizerBase], TokenWeighting]
"""The policy in training and its tokenizer → the weighting."""


def controlled(weighting: TokenWeighting, control: Control, seed: int) -> TokenWeighting:
    """The weighting itself, or the control that only shares its distribution of weights."""
    if control == "none":
        return weighting
    return Shuffled(weighting, seed) if control == "shuffled" else RandomMatched(weighting, seed)


def train_policy(config: PolicyConfig, weighting: WeightingFactory) -> Path | None:
    """Train (or go on training) the policy that `config` describes; returns the run's folder, None where stopped."""
    if run := finished(config):
        return run
    by_first_rank(lambda: prepare_embedded(*config.data.datasets, root=config.data.root))
    model, tokenizer = from_first_rank(lambda: build_policy(config.model, config.run.seed))
    whole = placed(model, config.runtime)
    training, validation = load_stores(config.data, tokenizer, config.run.seed)

    def stream(store: TokenStore, accumulation: int, seed: int) -> BatchStream:
        return BatchStream(store, config.data.max_tokens, accumulation, seed, pad_id(tokenizer))

    parts = Parts(
        model=model,
        whole=whole,
        groups=_groups(model, config),
        objective=PolicyObjective(weighting(model, tokenizer), config.loss),
        stream=stream(training, config.training.gradient_accumulation, config.run.seed),
        validation=stream(validation, 1, 0).first(config.training.validation_batches) if validation else [],
        save_model=saving(config, tokenizer, config.model.source, save_policy),
    )
    return fit(config, parts)


def _groups(model: MTPForCausalLM, config: PolicyConfig) -> Sequence[Group]:
    heads_lr = config.model.heads_lr if config.model.heads_lr is not None else config.optim.lr
    return [
        Group("trunk", model.trunk_parameters(), config.optim.lr, config.model.head_warmup_steps),
        Group("heads", model.head_parameters(), heads_lr),
    ]
