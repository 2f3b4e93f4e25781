"""A cache of keys and values in which token t of a row lies in slot t, and the forward pass over it.

Legend: R rows, n tokens of a row in one pass, S slots, V vocabulary, D hidden size, H heads of a policy.

Rows are independent: each has a length of its own, a pass writes n slots from there on, and to take tokens back is to
shorten the length, since their slots are written again. So rows may accept different numbers of drafts, and a row that
ends may be replaced by another, without padding on the left and without holes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache

from weighted_mtp.models.checkpoint import context_of
from weighted_mtp.models.mtp import MTPForCausalLM

_KERNELS = ("sdpa", "eager")  # those that take a mask of any form


@dataclass(frozen=True)
class Prefix:
    """What a prompt leaves behind without its last token, which is the first to be decoded: T − 1 tokens.

    keys, values  layer → (T − 1, heads, channels)
    drafting      states (H − 1, D) of the drafting heads at its last token; None without heads, or of an empty prefix
    """

    length: int
    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    drafting: Tensor | None = None


class SlotCache(Cache):
    """Keys and values of up to `rows` rows; a pass takes the first R of them.

    Grows when longer rows are announced, so that memory follows what is there and not what might be.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(layers=[])
        self._rows = rows
        self._keys: dict[int, Tensor] = {}  # layer → (rows, S, heads, channels)
        self._values: dict[int, Tensor] = {}
        self._size = 0
        self._visible = 0
        self._at: Tensor | None = None

    def aim(self, positions: Tensor, length: int) -> None:
        """Where the next pass writes: positions (R, n), all below `length`, up to which it reads."""
        if length > self._size:
            self._grow(length)
        self._visible = length
        first = torch.arange(positions.shape[0], device=positions.device)[:, None] * self._size
        self._at = (first + positions).flatten()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new keys and values (R, heads, n, channels)."""
        if layer_idx not in self._keys:
            self._keys[layer_idx], self._values[layer_idx] = self._empty(key_states), self._empty(value_states)
        return self._put(self._keys[layer_idx], key_states), self._put(self._values[layer_idx], value_states)

    def _put(self, kept: Tensor, new: Tensor) -> Tensor:
        assert self._at is not None
        kept.flatten(0, 1).index_copy_(0, self._at, new.transpose(1, 2).flatten(0, 1))
        return kept[: new.shape[0], : self._visible].transpose(1, 2)

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self._rows, self._size, like.shape[1], like.shape[3])  # zeros: masked NaN is NaN still

    def _grow(self, length: int) -> None:
        self._size = max(length, self._size * 3 // 2)
        for kept in (self._keys, self._values):
            for layer, old in kept.items():
                new = old.new_zeros(old.shape[0], self._size, *old.shape[2:])
                new[:, : old.shape[1]] = old
                kept[layer] = new

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and masks are given; nobody is to derive them from here

    def prefix(self, row: int, length: int, drafting: Tensor | None) -> Prefix:
        """A copy of the first `length` slots of a row."""
        keys, values = ({i: kept[i][row, :length].clone() for i in kept} for kept in (self._keys, self._values))
        return Prefix(length, keys, values, drafting)

    def put(self, row: int, prefix: Prefix) -> None:
        """Start a row with what a prompt left behind."""
        if prefix.length > self._size:
            self._grow(prefix.length)
        for kept, parts in ((self._keys, prefix.keys), (self._values, prefix.values)):
            for layer, part in parts.items():
                if layer not in kept:
                    kept[layer] = part.new_zeros(self._rows, self._size, *part.shape[1:])
                kept[layer][row, : prefix.length] = part

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` slots of one row to another."""
        for kept in (self._keys, self._values):
            for tensor in kept.values():
                tensor[target, :length] = tensor[source, :length]


class Forward:
    """A causal LM, or a policy with its drafting heads, over a `SlotCache`.

    drafts  whether heads 2 … H run, too; else the model is what its own `forward` makes of it
    """

    def __init__(self, model: PreTrainedModel, drafts: bool) -> None:
        self.model = model
        self.policy = model if drafts and isinstance(model, MTPForCausalLM) else None
        self._config = model.config.get_text_config(decoder=True)
        self._context = context_of(model)

    @property
    def n_drafts(self) -> int:
        """How many tokens are drafted at a time."""
        return 0 if self.policy is None else self.policy.config.n_future_tokens - 1

    def __call__(self, ids: Tensor, positions: Tensor, length: int, cache: SlotCache) -> tuple[Tensor, Tensor | None]:
        """Logits (R, n, V) after each of ids (R, n), and the drafting heads' states (H − 1, R, n, D) if they run.

        positions  (R, n), all below `length`; drafts may be beyond the model's context, and no use is made of those
        """
        cache.aim(positions, length)
        within = positions if self._context is None else positions.clamp(max=self._context - 1)
        given = {
            "input_ids": ids,
            "attention_mask": self._masks(positions, length),
            "position_ids": within,
            "cache": cache,
            "use_cache": True,
        }
        if self.policy is None:
            return self.model(**given).logits, None
        with self.policy.heads.all_active(detach_extra=False):
            states = self.policy.get_decoder()(**given).last_hidden_state
        return self.policy.unembed(states[0]), states[1:]

    def draft_logits(self, states: Tensor) -> Tensor:
        """Logits (…, V) of drafting heads' states (…, D)."""
        assert self.policy is not None
        return self.policy.unembed(states)

    def prefill(self, prompts: Sequence[list[int]]) -> list[Prefix]:
        """What each prompt leaves behind, from one pass over all of them, padded on the right."""
        lengths = [len(prompt) - 1 for prompt in prompts]
        longest = max(lengths)
        if longest == 0:
            return [Prefix(0, {}, {})] * len(prompts)
        device = self.model.device
        ids = torch.tensor([prompt[:-1] + [0] * (longest - n) for prompt, n in zip(prompts, lengths, strict=True)])
        positions = torch.arange(longest, device=device).expand(len(prompts), -1)
        cache = SlotCache(len(prompts))
        _, states = self(ids.to(device), positions, longest, cache)
        return [
            cache.prefix(row, n, None if states is None or n == 0 else states[:, row, n - 1].clone())
            for row, n in enumerate(lengths)
        ]

    def _masks(self, positions: Tensor, length: int) -> Any:
        """Which slots each token sees: all up to its own, or those of its layer's window."""
        slot, own = torch.arange(length, device=positions.device), positions[:, :, None]
        seen = slot <= own
        kinds = set(getattr(self._config, "layer_types", None) or ())
        window = getattr(self._config, "sliding_window", None)
        if window is None or kinds == {"full_attention"}:
            return self._of_kernel(seen)
        near = seen & (slot > own - window)
        if len(kinds) <= 1:
            return self._of_kernel(near)
        return {"full_attention": self._of_kernel(seen), "sliding_attention": self._of_kernel(near)}

    def _of_kernel(self, seen: Tensor) -> Tensor:
        """(R, n, S) as the attention kernel takes it: (R, 1, n, S), true on what is seen, or to be added to scores."""
        seen = seen[:, None]
        if self._config._attn_implementation == "sdpa":
            return seen
        lowest = torch.finfo(self.model.dtype).min
        return torch.zeros_like(seen, dtype=self.model.dtype).masked_fill(~seen, lowest)


@torch.inference_mode()
def takes_slots(forward: Forward) -> bool:
    """Whether a model computes over slots what it computes without a cache: tried out on a few tokens.

    Models whose state is no list of keys and values, or whose positions are none of `position_ids`, do not.
    """
    model = forward.model
    if _kernel(model.config) not in _KERNELS:
        return False
    ids = torch.arange(2, 8, device=model.device).view(2, 3) % _vocabulary(model.config)
    try:
        expected = model(input_ids=ids, use_cache=False).logits.float()
        cache = SlotCache(2)
        for prefix, row in zip(forward.prefill([ids[0, :2].tolist(), ids[1].tolist()]), range(2), strict=True):
            cache.put(row, prefix)
        positions = torch.tensor([[1, 2], [2, 3]], device=model.device)
        tokens = torch.stack([ids[0, 1:], ids[1, 2].expand(2)])
        found, _ = forward(tokens, positions, 4, cache)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, NotImplementedError):
        return False
    pairs = [(found[0, 0], expected[0, 1]), (found[0, 1], expected[0, 2]), (found[1, 0], expected[1, 2])]
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    return all(torch.allclose(a.float(), b, rtol=tolerance, atol=tolerance * float(b.abs().max())) for a, b in pairs)


def _kernel(config: PreTrainedConfig) -> str | None:
    return config.get_text_config(decoder=True)._attn_implementation


def _vocabulary(config: PreTrainedConfig) -> int:
    return int(config.get_text_config(decoder=True).vocab_size)
