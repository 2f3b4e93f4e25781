"""The policy: a trunk and H parallel prediction heads on any decoder (Gloeckle et al. 2024, arXiv 2404.19737, §2).

Legend: B batch, T time, H heads (`n_future_tokens`), D hidden size, V vocabulary.

The base causal LM stays whole. Only its last decoder layer is replaced, by a module that holds that layer (head 1)
and further layers of the same class (heads 2 … H), all applied to the same trunk output. The base's own forward
calls this module with whatever it gives any of its layers (mask, rotary embeddings, cache), so that one
implementation serves every architecture, and a policy that runs only head 1 *is* the base model, bit for bit.

Departure from Meta's release: extra heads are added to the base's layers instead of being counted among them, so a
model of L layers becomes a trunk of L − 1 layers with H heads.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import CausalLMOutputWithPast

try:  # in a model's folder a copy of this file stands alone (`models/modelling.py`)
    from weighted_mtp.errors import UserError, first_line
except ImportError:
    UserError, first_line = ValueError, str  # type: ignore[misc, assignment]

HeadInit = Literal["copy", "random"]
MAX_HEADS = 64  # far beyond any published model (8); more is a typing error that would only be noticed as a full memory


@dataclass(frozen=True)
class Unembedding:
    """How states become logits: `cap · tanh((h Wᵀ + b) / cap)`, without the parts that are None.

    weight  (V, D)
    bias    (V,), as Phi has one
    cap     Gemma's soft cap on logits
    """

    weight: Tensor
    bias: Tensor | None = None
    cap: float | None = None

    @property
    def is_trained(self) -> bool:
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)


class MTPConfig(PreTrainedConfig):
    """The base model's own configuration and the number of heads.

    base_config      configuration of the causal LM that trunk + head 1 form
    n_future_tokens  H ≥ 1; head k predicts the token k positions ahead
    """

    model_type = "weighted_mtp"
    sub_configs_defaults = {"base_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")}  # noqa: RUF012

    base_config: dict | PreTrainedConfig | None = None
    n_future_tokens: int = 4

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Where generation and caches look up layers, windows and context length: the base's own."""
        return cast(PreTrainedConfig, self.base_config).get_text_config(decoder=decoder, encoder=encoder)

    @property
    def vocab_size(self) -> int:
        return self.get_text_config().vocab_size

    @property
    def hidden_size(self) -> int:
        return self.get_text_config().hidden_size


class PredictionHeads(nn.Module):
    """Stands in for a decoder's last layer: head 1 is that layer, the extra heads are further ones of its class.

    Called like the layer it replaces. With only head 1 it returns (B, T, D) as that layer did; inside `all_active()`
    it returns every head's output, stacked in front: (H, B, T, D). The decoder's final norm, which works on rows of
    length D, then normalises all of them.
    """

    def __init__(self, last_layer: nn.Module, n_heads: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([last_layer, *(copy.deepcopy(last_layer) for _ in range(n_heads - 1))])
        for offset, head in enumerate(self.heads):
            _shift_cache_slot(head, offset)
        self._all_active = False
        self._detach_extra = False

    @property
    def extra(self) -> Iterator[nn.Module]:
        """Heads 2 … H."""
        return iter(self.heads[1:])

    @contextmanager
    def all_active(self, detach_extra: bool) -> Iterator[None]:
        """Run every head, not only the first; `detach_extra` keeps the extra heads' gradient out of the trunk."""
        self._all_active, self._detach_extra = True, detach_extra
        try:
            yield
        finally:
            self._all_active, self._detach_extra = False, False

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        first = self.heads[0](hidden_states, *args, **kwargs)
        if not self._all_active:
            return first
        trunk = hidden_states.detach() if self._detach_extra else hidden_states
        return torch.stack([first, *(head(trunk, *args, **kwargs) for head in self.extra)])


def _shift_cache_slot(head: nn.Module, offset: int) -> None:
    """Give an extra head cache slots of its own, beyond those of the base's layers."""
    for module in head.modules():
        slot = getattr(module, "layer_idx", None)
        if isinstance(slot, int):
            module.layer_idx = slot + offset  # type: ignore[assignment]


def decoder_layers(base: PreTrainedModel) -> nn.ModuleList:
    """The list of decoder layers of a causal LM. UserError if there is none (it is no decoder-only model)."""
    depth = base.config.get_text_config(decoder=True).num_hidden_layers
    lists = [m for m in base.get_decoder().children() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if len(lists) != 1:
        raise UserError(
            f"base model {type(base).__name__}: no single stack of {depth} decoder layers to put heads on;"
            " use a decoder-only causal LM (Llama, Qwen, Mistral, Gemma, Phi …)"
        )
    return lists[0]


class MTPForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal LM with H prediction heads; called as a model or by `generate`, it is trunk + head 1."""

    config_class = MTPConfig
    base_model_prefix = "base"
    forward_methods = ("head_states", "next_token_states")  # beside `forward`: what computes with parameters
    supports_gradient_checkpointing = True
    # What the base itself does not support it refuses when it is built.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: MTPConfig, base: PreTrainedModel | None = None) -> None:
        """Fresh weights, every head drawn independently; or heads put on `base`, extra ones copies of its last layer.

        Raises UserError if H or the number of layers leaves no head or no trunk.
        """
        super().__init__(config)
        self.base = AutoModelForCausalLM.from_config(config.base_config) if base is None else base
        config.base_config = self.base.config  # one object: what is set on either (attention kernel, dtype) holds
        layers = decoder_layers(self.base)
        _check_heads(config.n_future_tokens, layers)
        layers[-1] = PredictionHeads(layers[-1], config.n_future_tokens)
        if base is None:
            self._draw_extra_heads()
        self.post_init()

    @classmethod
    def from_base(cls, base: PreTrainedModel, n_future_tokens: int, head_init: HeadInit = "copy") -> "MTPForCausalLM":
        """Put heads on a causal LM.

        base             becomes part of the policy, not copied; called on its own it still computes what it did
        n_future_tokens  H, 1 … 64; heads are added to the base's layers, of which at least two are needed
        head_init        extra heads: `copy` of the last layer, or `random` by the base's own initialisation

        Raises UserError for a base that already has heads, for H out of range, for a base of one layer, and for an
        architecture whose logits are not its unembedding of the decoder's output.
        """
        if isinstance(base, MTPForCausalLM):
            raise UserError(
                f"base model: it already has n_future_tokens = {base.config.n_future_tokens} heads;"
                " export its plain model first, or train it as it is"
            )
        config = MTPConfig(
            base_config=copy.deepcopy(base.config),  # a new outer configuration resets the kernels chosen in the inner
            n_future_tokens=n_future_tokens,
            dtype=base.dtype,
            attn_implementation=base.config._attn_implementation,  # type: ignore[call-arg]
        )
        with init.no_init_weights():  # every weight is there already
            model = cls(config, base)
        if head_init == "random":
            model._draw_extra_heads()
        model.generation_config = copy.deepcopy(base.generation_config)
        model.train(base.training)
        _check_unembedding(model)
        return model

    @torch.no_grad()
    def _draw_extra_heads(self) -> None:
        for head in self.heads.extra:
            for module in head.modules():
                self.base._init_weights(module)

    @property
    def heads(self) -> PredictionHeads:
        return cast(PredictionHeads, self.layers[-1])

    @property
    def layers(self) -> nn.ModuleList:
        """The trunk's layers, and the heads as the last one."""
        return decoder_layers(self.base)

    def parts_to_gather(self) -> list[nn.Module]:
        """Trunk layers and heads: what ranks that share a model gather one at a time (`runtime.sharding`)."""
        return [*self.layers[:-1], *self.heads.heads]

    def get_decoder(self) -> PreTrainedModel:
        return self.base.get_decoder()

    def get_input_embeddings(self) -> nn.Module:
        return self.base.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.base.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.base.set_output_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Trunk + head 1, an ordinary causal LM: arguments and output are the base model's own."""
        return self.base(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def head_states(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, detach_extra: bool = False
    ) -> Tensor:
        """All heads' states after the final norm, from one pass of the trunk.

        input_ids       (B, T)
        attention_mask  (B, T), true on tokens. Leave it out for batches padded on the right: causal attention never
                        looks at what follows a token, and fast kernels take no mask
        detach_extra    the extra heads learn, but send no gradient into the trunk
        returns         (H, B, T, D); row k − 1 at position t predicts token t + k
        """
        with self.heads.all_active(detach_extra):
            decoder = self.base.get_decoder()
            return decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state

    def next_token_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Only head 1's states, (B, T, D); arguments as above. The other heads are not run."""
        decoder = self.base.get_decoder()
        return decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of states (…, D) as the base computes them: output embedding, then Gemma's soft cap if set."""
        logits = self.base.get_output_embeddings()(hidden)
        cap = self._logit_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def unembedding(self) -> Unembedding:
        """The parts of `unembed`, for losses that take its gradient themselves. In a sharded model they are whole from
        a forward pass until its backward."""
        output = self.base.get_output_embeddings()
        return Unembedding(output.weight, getattr(output, "bias", None), self._logit_cap)

    @property
    def _logit_cap(self) -> float | None:
        return getattr(self.config.get_text_config(), "final_logit_softcapping", None)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the extra heads (2 … H): what the base model does not have."""
        return (parameter for head in self.heads.extra for parameter in head.parameters())

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Everything else, each once: embeddings, trunk layers, head 1, final norm, unembedding."""
        extra = {id(parameter) for parameter in self.head_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in extra)


def _check_heads(n_future_tokens: int, layers: nn.ModuleList) -> None:
    if not 1 <= n_future_tokens <= MAX_HEADS:
        raise UserError(f"n_future_tokens = {n_future_tokens}: give a number of heads from 1 to {MAX_HEADS}")
    if len(layers) < 2:
        raise UserError(
            "num_hidden_layers = 1: the last layer becomes head 1 and nothing is left for the trunk;"
            " use a base model of at least 2 layers"
        )


@torch.no_grad()
@contextmanager
def takes_heads(model: MTPForCausalLM) -> Iterator[None]:
    """UserError where an architecture's forward cannot have heads in the place of its last layer."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise UserError(
            f"base model {type(model.base).__name__}: prediction heads cannot take its last layer's place "
            f"({first_line(error)}); use one of the Llama, Qwen, Mistral, Gemma or Phi families"
        ) from error


def _check_unembedding(model: MTPForCausalLM) -> None:
    """Some architectures scale their logits in ways of their own; training heads on other logits would be silent."""
    training = model.training
    model.eval()
    ids = torch.arange(1, 5, device=model.device)[None]  # not token 0, whose embedding is all zero in some models
    with takes_heads(model):
        expected = model(input_ids=ids, use_cache=False).logits
        logits = model.unembed(model.head_states(ids)[0])
    model.train(training)
    if not torch.equal(expected, logits):
        raise UserError(
            f"base model {type(model.base).__name__}: its logits are not unembed(final norm(last layer)), maybe scaled;"
            " use one of the Llama, Qwen, Mistral, Gemma or Phi families"
        )
