"""A decoder's forward pass over slots, in as few operations as its arithmetic takes.

Legend: R rows, n tokens of each, N = R n, S slots, D hidden size, C channels of an attention head, H prediction heads.

A pass of a model of a few million parameters is over before Python has walked through its modules: of 1.2 ms for one
token of a micro model 0.3 ms are arithmetic. Here a layer is some fifteen operations. Heads that draft read keys and
values of all tokens of a pass, but attend, and apply their MLP, only at the last accepted one.

Departure from the modules' arithmetic: products whose inputs are the same are one product, a residual is added in the
product before it, and normalisation is torch's own; so results differ in rounding. The weights of small models are
copied for that; of larger ones, whose arithmetic takes the time, products stay as many as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from weighted_mtp.decoding.slots import SlotCache
from weighted_mtp.models.mtp import MTPForCausalLM, PredictionHeads

_MOST_COPIED = 50_000_000  # parameters
_FEW = range(2, 5)  # rows of a product that goes through the weights once, if these are its left factor (`_linear`)
_FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_FIXED_ROPE = ("default", "linear", "llama3")  # whose angles depend on the position and nothing else


@dataclass(frozen=True)
class _Product:
    """Linear layers of one input, their outputs one behind the other."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, modules: Sequence[nn.Linear], as_one: bool) -> "_Product":
        weights, biases = tuple(m.weight for m in modules), tuple(m.bias for m in modules)
        if not as_one:
            return cls(weights, biases)
        return cls((torch.cat(weights),), (None if biases[0] is None else torch.cat(biases),))

    def __call__(self, of: Tensor, streams: bool) -> Tensor:
        found = [_linear(of, w, b, streams) for w, b in zip(self.weights, self.biases, strict=True)]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def _linear(of: Tensor, weight: Tensor, bias: Tensor | None, streams: bool) -> Tensor:
    """of (N, K), weight (D, K) → (N, D).

    streams  the weights come from memory, in fp32 on a CPU: for 2 to 4 rows MKL then takes 1.2 to 2.6 times as long if
             the weights are the right factor
    """
    if streams and len(of) in _FEW:
        found = torch.mm(weight, of.t()).t()
        return found if bias is None else found + bias
    return functional.linear(of, weight, bias)


def _added(to: Tensor, of: Tensor, transposed: Tensor, streams: bool) -> Tensor:
    """to (N, D) + of (N, K) · transposed (K, D); `streams` as above."""
    if streams and len(of) in _FEW:
        return torch.addmm(to.t(), transposed.t(), of.t()).t()
    return torch.addmm(to, of, transposed)


@dataclass(frozen=True)
class _Layer:
    slot: int  # in the cache
    before_attention: Tensor  # norm's weight
    into_attention: _Product  # queries, keys, values
    per_head: Tensor | None  # norm's weights of queries and keys, (heads, C)
    out_of_attention: Tensor  # transposed
    out_bias: Tensor | None
    before_mlp: Tensor
    into_mlp: _Product  # gate and up
    out_of_mlp: Tensor  # transposed

    @classmethod
    def of(cls, layer: Any, copied: bool) -> "_Layer":
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        per_head = None
        if hasattr(attention, "q_norm"):
            counts = [p.out_features // attention.head_dim for p in projections[:2]]
            norms = (attention.q_norm.weight, attention.k_norm.weight)
            per_head = torch.cat([w.expand(n, -1) for w, n in zip(norms, counts, strict=True)])
        return cls(
            attention.layer_idx,
            layer.input_layernorm.weight,
            _Product.of(projections, as_one=copied),
            per_head,
            attention.o_proj.weight.T.contiguous() if copied else attention.o_proj.weight.T,
            attention.o_proj.bias,
            layer.post_attention_layernorm.weight,
            _Product.of((mlp.gate_proj, mlp.up_proj), as_one=copied),
            mlp.down_proj.weight.T.contiguous() if copied else mlp.down_proj.weight.T,
        )


@dataclass(frozen=True)
class Read:
    """What a pass leaves for the drafting heads.

    trunk     (N, D)
    turn      cosines and signed sines of the positions, (N, 1, C) each
    mask      added to scores, (R, 1, n, S)
    """

    trunk: Tensor
    turn: tuple[Tensor, Tensor]
    mask: Tensor


class LeanDecoder:
    """Trunk, head 1 and the drafting heads of a model of the Llama, Mistral or Qwen families."""

    def __init__(self, model: PreTrainedModel) -> None:
        base: Any = model.base if isinstance(model, MTPForCausalLM) else model
        decoder, config = base.get_decoder(), base.config
        last = decoder.layers[-1]
        heads = list(last.heads) if isinstance(last, PredictionHeads) else [last]
        copied = sum(p.numel() for p in base.parameters()) <= _MOST_COPIED
        with torch.no_grad():
            self._layers = [_Layer.of(layer, copied) for layer in (*decoder.layers[:-1], heads[0])]
            self._drafting = [_Layer.of(head, copied) for head in heads[1:]]
        attention: Any = heads[0].self_attn
        self._channels = int(attention.head_dim)
        self._n_keys = config.num_key_value_heads
        self._n_queries = config.num_attention_heads
        self._eps = config.rms_norm_eps
        self._embedding, self._norm = base.get_input_embeddings().weight, decoder.norm.weight
        output = base.get_output_embeddings()
        self._unembedding, self._bias = output.weight, output.bias
        self._streams = not copied and output.weight.device.type == "cpu" and output.weight.dtype == torch.float32
        positions = torch.arange(config.max_position_embeddings, device=base.device)[None]
        cosine, sine = decoder.rotary_emb(self._embedding, positions)
        half = sine.shape[-1] // 2
        signed = torch.cat([-sine[..., :half], sine[..., half:]], dim=-1)
        self._cosine, self._sine = cosine[0, :, None], signed[0, :, None]

    def __call__(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: SlotCache, logits: bool
    ) -> tuple[Tensor, Read]:
        """Logits (R, n, V) behind ids (R, n), and what `drafts` goes on with.

        positions  (R, n), within the context
        mask       (R, 1, n, S), true on what is seen of a row's slots
        logits     of all ids, else only of the last one's
        """
        flat = positions.flatten()
        turn = (self._cosine[flat], self._sine[flat])
        added = torch.zeros_like(mask, dtype=self._embedding.dtype).masked_fill_(~mask, -torch.inf)
        hidden = trunk = functional.embedding(ids.flatten(), self._embedding)
        for layer in self._layers:
            trunk = hidden
            hidden = self._layer(layer, hidden, turn, added, cache)
        of_ids = hidden.view(*ids.shape, -1)
        return self._unembed(of_ids if logits else of_ids[:, -1:]), Read(trunk, turn, added)

    def drafts(self, read: Read, at: Tensor, cache: SlotCache) -> Tensor:
        """The drafting heads' logits (R, H − 1, V) at token `at` (R,) of each row's n."""
        rows, n = read.mask.shape[0], read.mask.shape[2]
        each = torch.arange(rows, device=at.device)
        chosen = each * n + at
        mask = read.mask[each, :, at][:, :, None]
        found = [self._head(head, read, chosen, mask, cache) for head in self._drafting]
        return self._unembed(torch.stack(found, dim=1).flatten(0, 1)).view(rows, len(found), -1)

    def _unembed(self, hidden: Tensor) -> Tensor:
        normal = self._normal(hidden, self._norm).flatten(0, -2)
        return _linear(normal, self._unembedding, self._bias, self._streams).view(*hidden.shape[:-1], -1)

    def _normal(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self._eps)

    def _layer(
        self, layer: _Layer, hidden: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, cache: SlotCache
    ) -> Tensor:
        queries, keys, values = self._split(layer, hidden, turn)
        cache.extend(layer.slot, keys, values)
        return self._finished(layer, hidden, queries, mask, cache)

    def _head(self, layer: _Layer, read: Read, chosen: Tensor, mask: Tensor, cache: SlotCache) -> Tensor:
        """One drafting head's output (R, D) at the chosen tokens."""
        queries, keys, values = self._split(layer, read.trunk, read.turn)
        cache.extend(layer.slot, keys, values)
        return self._finished(layer, read.trunk[chosen], queries[chosen], mask, cache)

    def _split(self, layer: _Layer, hidden: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's queries, keys (both turned) and values of (N, D), (N, heads, C) each."""
        into = layer.into_attention(self._normal(hidden, layer.before_attention), self._streams)
        heads = into.view(into.shape[0], -1, self._channels)
        turned, values = heads[:, : -self._n_keys], heads[:, -self._n_keys :]
        if layer.per_head is not None:
            turned = functional.rms_norm(turned, (self._channels,), None, self._eps) * layer.per_head
        cosine, sine = turn
        turned = torch.addcmul(turned * cosine, turned.roll(self._channels // 2, -1), sine)
        return turned[:, : self._n_queries], turned[:, self._n_queries :], values

    def _finished(self, layer: _Layer, hidden: Tensor, queries: Tensor, mask: Tensor, cache: SlotCache) -> Tensor:
        """Attention, its residual, and the rest of the layer."""
        asked = queries.view(mask.shape[0], -1, self._n_queries, self._channels).transpose(1, 2)
        found = cache.attended(layer.slot, asked, mask)
        found = found.transpose(1, 2).reshape(hidden.shape[0], -1)
        hidden = _added(hidden, found, layer.out_of_attention, self._streams)
        if layer.out_bias is not None:
            hidden = hidden + layer.out_bias
        gate, up = layer.into_mlp(self._normal(hidden, layer.before_mlp), self._streams).chunk(2, dim=-1)
        return _added(hidden, functional.silu(gate).mul_(up), layer.out_of_mlp, self._streams)


def lean(model: PreTrainedModel) -> LeanDecoder | None:
    """The lean decoder of a model that has one; it computes what the modules do, which `takes_slots` tries out."""
    base = model.base if isinstance(model, MTPForCausalLM) else model
    config = base.config
    if type(base).__name__ not in _FAMILIES or config._attn_implementation != "sdpa" or config.hidden_act != "silu":
        return None
    if len(set(getattr(config, "layer_types", None) or ())) > 1:
        return None  # each kind would need a mask of its own
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") not in _FIXED_ROPE:
        return None
    return LeanDecoder(model) if all(_is_plain(layer) for layer in _layers(base)) else None


def _layers(base: Any) -> list[Any]:
    *trunk, last = base.get_decoder().layers
    return [*trunk, *(last.heads if isinstance(last, PredictionHeads) else [last])]


def _is_plain(layer: Any) -> bool:
    """Whether all products are torch's own: no adapters, no quantised weights, and no bias where none is added."""
    attention, mlp = layer.self_attn, layer.mlp
    without_bias = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    products = (*without_bias, attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return all(type(m) is nn.Linear for m in products) and all(m.bias is None for m in without_bias)
