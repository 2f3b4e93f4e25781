"""The value model ("critic"): a decoder and a head that gives one scalar a token, V_t = value(x_{≤t}).

Legend: B batch, T time, D hidden size.
"""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec

from weighted_mtp.errors import UserError
from weighted_mtp.models.adapters import (
    LoraSettings,
    adapted_source,
    apply_lora,
    holds_adapters,
    merge_saved,
    save_merged,
)
from weighted_mtp.models.checkpoint import (
    CRITIC,
    Dtype,
    load_complete,
    load_tokenizer,
    quiet,
    read_config,
    save_tokenizer,
)
from weighted_mtp.models.convert import load_base, to_causal_lm
from weighted_mtp.models.mtp import MTPForCausalLM, decoder_layers
from weighted_mtp.section import Section

ValueHead = Literal["linear", "mlp", "sigmoid"]


class ValueConfig(Section):
    """Which critic to train."""

    source: str
    """The backbone: a causal LM or policy (the reference, by preference): hub id, folder or .gguf file."""
    head: ValueHead = "mlp"
    """`linear`, `mlp` (one hidden layer of the backbone's width), or `sigmoid`: linear, and V in (0, 1)."""
    base_rate: float = Field(0.5, gt=0, lt=1)
    """P(success) to start from: V is its log-odds everywhere (0 for one half), or itself with the sigmoid head."""
    backbone: Literal["full", "lora", "frozen"] = "full"
    """What of the backbone is trained, at `optim.lr`."""
    last_layers: int | None = Field(None, ge=1)
    """With `backbone: full`, train only this many last layers: the ones before need no gradient, which halves a
    step."""
    lora: LoraSettings | None = None
    """Adapters of `backbone: lora`; their defaults where not given."""
    head_lr: float | None = Field(None, gt=0)
    """Learning rate of the value head; `optim.lr` if not given."""

    @model_validator(mode="after")
    def _lora_fits(self) -> "ValueConfig":
        if self.lora is not None and self.backbone != "lora":
            raise ValueError(f"lora is given but backbone={self.backbone}: set backbone=lora, or leave lora out")
        if self.lora is not None and self.lora.full_heads:
            raise ValueError("lora.full_heads is for policies: a value model has no prediction heads; leave it out")
        return self

    @model_validator(mode="after")
    def _last_layers_have_an_effect(self) -> "ValueConfig":
        if self.last_layers is not None and self.backbone != "full":
            raise ValueError(
                f"last_layers={self.last_layers} has no effect with backbone={self.backbone}: "
                "set backbone=full, or leave last_layers out"
            )
        return self


class ValueModelConfig(PreTrainedConfig):
    """The backbone's own configuration and the kind of head."""

    model_type = CRITIC
    sub_configs_defaults = {"base_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")}  # noqa: RUF012

    base_config: dict | PreTrainedConfig | None = None
    head: str = "mlp"

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        return cast(PreTrainedConfig, self.base_config).get_text_config(decoder=decoder, encoder=encoder)


class ValueModel(PreTrainedModel):
    """A decoder without unembedding, and a value head on its final norm's output."""

    config_class = ValueModelConfig
    base_model_prefix = "backbone"
    forward_methods = ("scores",)  # beside `forward`: what computes with parameters
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = ["value_head"]  # noqa: RUF012
    # What the backbone itself does not support it refuses when it is built.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: ValueModelConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.base_config) if backbone is None else backbone
        config.base_config = self.backbone.config  # one object, as in the policy
        self.value_head = _new_head(config.head, config.get_text_config().hidden_size)
        self.post_init()

    @classmethod
    def from_base(cls, base: PreTrainedModel, head: ValueHead, base_rate: float = 0.5) -> "ValueModel":
        """Put a value head on a causal LM's decoder, which becomes part of the value model, uncopied.

        base       a causal LM; of a policy, trunk and head 1 are taken, as a copy
        base_rate  V starts at log(base_rate / (1 − base_rate)) for every token, or at base_rate with `sigmoid`
        """
        decoder = (to_causal_lm(base) if isinstance(base, MTPForCausalLM) else base).get_decoder()
        config = ValueModelConfig(
            base_config=copy.deepcopy(decoder.config),
            head=head,
            dtype=base.dtype,
            attn_implementation=decoder.config._attn_implementation,  # type: ignore[call-arg]
        )
        with init.no_init_weights():  # the backbone's weights are there already
            model = cls(config, decoder)
        model._draw_head(base_rate)
        return model.train(base.training)

    @torch.no_grad()
    def _draw_head(self, base_rate: float) -> None:
        layers = [module for module in self.value_head.modules() if isinstance(module, nn.Linear)]
        for layer in layers:
            self._init_weights(layer)
        nn.init.zeros_(layers[-1].weight)
        nn.init.constant_(layers[-1].bias, math.log(base_rate / (1 - base_rate)))

    @property
    def output_kind(self) -> Literal["score", "probability"]:
        """What `forward` returns: probabilities with the sigmoid head, else any real number."""
        return "probability" if self.config.head == "sigmoid" else "score"

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """V_t of every token, (B, T) fp32.

        input_ids       (B, T), right-padded
        attention_mask  (B, T), true on tokens; None if nothing is padded
        """
        scores = self._scores(input_ids, attention_mask)
        return torch.sigmoid(scores) if self.config.head == "sigmoid" else scores

    def scores(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """V_t before the sigmoid, if there is one: the logits of P(success | prefix) for the `outcome` loss.

        The head is computed in fp32 whatever the backbone's precision: δ is a difference of neighbouring values, of
        which bf16 would leave a few bits.
        """
        return self._scores(input_ids, attention_mask)

    def _scores(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        with torch.autocast(states.device.type, enabled=False):
            return self.value_head(states.float()).squeeze(-1)

    def parts_to_gather(self) -> list[nn.Module]:
        """The backbone's layers: what ranks that share a model gather one at a time (`runtime.sharding`)."""
        return list(decoder_layers(self))

    def get_decoder(self) -> PreTrainedModel:
        return self.backbone

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        return self.value_head.parameters()

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        return self.backbone.parameters()


def _new_head(kind: str, hidden_size: int) -> nn.Module:
    if kind == "mlp":
        return nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, 1))
    return nn.Linear(hidden_size, 1)


def build_value_model(config: ValueConfig, seed: int) -> tuple[ValueModel, PreTrainedTokenizerBase]:
    """The critic to train, in fp32, and its backbone's tokenizer; a function of `config` and `seed`.

    The value head is always trained. Raises what `load_base` and `choose_trained` raise.
    """
    torch.manual_seed(seed)
    base, tokenizer = load_base(config.source, "float32")
    model = ValueModel.from_base(base, config.head, config.base_rate)
    choose_trained(model, config)
    model.value_head.requires_grad_(True)
    return model, tokenizer


def choose_trained(model: PreTrainedModel, config: ValueConfig) -> None:
    """Put into the model around a backbone what `config.backbone` trains of it, and freeze the rest.

    Raises UserError for more `last_layers` than there are, and what `apply_lora` raises.
    """
    if config.backbone == "lora":
        apply_lora(model, config.lora or LoraSettings())
    elif config.backbone == "frozen" or config.last_layers is not None:
        layers, last = decoder_layers(model), config.last_layers or 0
        if last > len(layers):
            raise UserError(f"value.last_layers={last}: {config.source} has {len(layers)} layers; give at most as many")
        model.requires_grad_(False)
        for layer in layers[len(layers) - last :]:
            layer.requires_grad_(True)


def save_value_model(model: ValueModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write a folder that `load_value_model` reads: adapters merged, tokenizer beside the weights."""
    with quiet():
        save_merged(model, directory)
        save_tokenizer(tokenizer, directory)


def load_value_model(path: str | Path, dtype: Dtype = "auto") -> tuple[ValueModel, PreTrainedTokenizerBase]:
    """The value model of a folder that `save_value_model` or `save_adapters` wrote, in eval mode, and its tokenizer.

    Adapters are merged in fp32, whatever `dtype`.

    Raises UserError for a folder that is missing, holds another kind of model, is truncated, has another head than its
    config says, or whose tokenizer does not fit the embeddings.
    """
    folder = Path(path)
    config = read_config(folder)
    if config.get("model_type") != ValueModelConfig.model_type:
        raise UserError(
            f"{folder}: a {config.get('model_type')} model without a value head; train a critic on it first"
        )
    if not isinstance(config.get("base_config"), dict) or config.get("head") not in get_args(ValueHead):
        raise UserError(
            f"{folder / 'config.json'}: lacks base_config (the backbone) or head (one of {get_args(ValueHead)});"
            " give the one the value model was saved with"
        )
    if holds_adapters(folder):
        base, _ = load_base(adapted_source(folder), "float32")
        return merge_saved(ValueModel.from_base(base, config["head"]), folder).eval(), load_tokenizer(folder)
    return load_complete(ValueModel, folder, dtype)


AutoConfig.register(ValueModelConfig.model_type, ValueModelConfig)
AutoModel.register(ValueModelConfig, ValueModel)
