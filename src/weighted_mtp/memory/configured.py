"""What a configuration would train and evaluate, as architectures: from folders, from the catalogue, or from the
configurations beside it of runs that are yet to be trained."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from weighted_mtp.config import read_options
from weighted_mtp.errors import UserError
from weighted_mtp.losses.critic_loss import ImplicitConfig
from weighted_mtp.memory.architecture import plain_architecture, policy_of, stored_architecture
from weighted_mtp.memory.footprint import Microbatch
from weighted_mtp.models.build import MICRO_SOURCE, ModelConfig, set_trained
from weighted_mtp.models.checkpoint import load_tokenizer, newest_model
from weighted_mtp.models.micro import random_micro
from weighted_mtp.models.mtp import MTPConfig
from weighted_mtp.models.value import ValueConfig, ValueModel, ValueModelConfig, choose_trained
from weighted_mtp.pipelines.critic import CriticConfig
from weighted_mtp.pipelines.fit import FitConfig, RunConfig
from weighted_mtp.pipelines.kinds import pipeline_of
from weighted_mtp.pipelines.policy import PolicyConfig
from weighted_mtp.pipelines.run_rho1 import Rho1RunConfig
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig
from weighted_mtp.section import validated

Build = Callable[[], PreTrainedModel]
"""Makes a model on torch's default device."""


@dataclass(frozen=True)
class Planned:
    """A run to be.

    trained    the model that learns, with what is frozen in it
    evaluated  critics and references, name → model
    """

    config: FitConfig
    trained: Build
    evaluated: dict[str, Build]
    batch: Microbatch
    detach_extra_heads: bool = False


def planned(file: Path, overrides: tuple[str, ...] = ()) -> Planned:
    """The run that a pipeline's configuration describes.

    Raises UserError for what the pipeline would refuse, and for a model of which nothing here says what it is.
    """
    options, sources = read_options(file, overrides), _Sources(file.parent)
    config = validated(pipeline_of(options, str(file)).schema, options, f"{file}: ")
    return _critic(config, sources) if isinstance(config, CriticConfig) else _policy(config, sources)


def _policy(config: FitConfig, sources: "_Sources") -> Planned:
    assert isinstance(config, PolicyConfig)
    evaluated: dict[str, Build] = {}
    if isinstance(config, VerifiableConfig):
        evaluated = {
            f"{name} {number}" if len(config.critics) > 1 else name: build
            for number, run in enumerate(config.critics, start=1)
            for name, build in sources.critic(run).items()
        }
    elif isinstance(config, Rho1RunConfig):
        evaluated = {"reference": sources.reference(config.reference)}

    def policy() -> PreTrainedModel:
        model = policy_of(sources.policy(config.model), config.model.n_future_tokens)
        set_trained(model, config.model)
        return model

    batch = _batch(config.data.max_tokens, config.data.max_length)
    return Planned(config, policy, evaluated, batch, config.loss.detach_extra_heads)


def _critic(config: CriticConfig, sources: "_Sources") -> Planned:
    batch = _batch(config.data.max_tokens, config.data.max_length)
    if isinstance(config.critic, ImplicitConfig):

        def policy_copy() -> PreTrainedModel:
            model = policy_of(sources.of(config.value.source), 1)
            choose_trained(model, config.value)
            return model

        return Planned(config, policy_copy, {"reference": sources.reference(config.value.source)}, batch)

    def value() -> PreTrainedModel:
        model = sources.value(config.value)
        choose_trained(model, config.value)
        model.value_head.requires_grad_(True)
        return model

    return Planned(config, value, {}, batch)


def _batch(max_tokens: int, max_length: int) -> Microbatch:
    length = min(max_length, max_tokens)
    return Microbatch(max_tokens // length, length)


@dataclass(frozen=True)
class _Sources:
    """Where models are looked for: where they are named, and among the runs of the configurations in a folder."""

    folder: Path

    def of(self, source: str) -> PreTrainedConfig:
        """The architecture of what `load_base` or a critic's run would give."""
        options = self._run(source)
        if options is not None:
            return self._of_run(options)
        path = Path(source).expanduser()
        folder = newest_model(path) if path.is_dir() else path
        return stored_architecture(str(folder))

    def policy(self, model: ModelConfig) -> PreTrainedConfig:
        if model.source != MICRO_SOURCE:
            return self.of(model.source)
        return random_micro(model.micro, load_tokenizer(model.micro_tokenizer), None).config

    def value(self, value: ValueConfig) -> ValueModel:
        base = plain_architecture(self.of(value.source))
        return ValueModel(ValueModelConfig(base_config=base, head=value.head))

    def reference(self, source: str) -> Build:
        config = self.of(source)
        return lambda: policy_of(config, config.n_future_tokens if isinstance(config, MTPConfig) else 1)

    def critic(self, run: Path) -> dict[str, Build]:
        options = self._run(str(run))
        if options is None:
            raise UserError(f"critic={run}: no such run, and no configuration in {self.folder} is its; add one")
        config = validated(CriticConfig, options, f"critic={run}: ")
        if isinstance(config.critic, ImplicitConfig):
            reference = self.reference(config.value.source)
            return {"critic": lambda: policy_of(self.of(config.value.source), 1), "reference": reference}
        return {"critic": lambda: self.value(config.value)}

    def _run(self, source: str) -> dict[str, Any] | None:
        """The options of a run that is there, or of a configuration in the folder whose run it will be."""
        if (Path(source) / "config.yaml").is_file():
            return read_options(Path(source) / "config.yaml")
        for file in sorted(self.folder.glob("*.yaml")):
            if "run" in read_options(file, resolve=False):  # a study has none, and names in it that it alone can fill
                options = read_options(file)
                run = validated(RunConfig, options["run"], f"{file}: run: ")
                if run.root / run.name == Path(source):
                    return options
        return None

    def _of_run(self, options: dict[str, Any]) -> PreTrainedConfig:
        if options.get("pipeline") == "critic":
            return self.of(options["value"]["source"])
        model = validated(ModelConfig, options.get("model", {}))
        base = plain_architecture(self.policy(model))
        return MTPConfig(base_config=base, n_future_tokens=model.n_future_tokens)
