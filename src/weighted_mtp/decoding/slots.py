"""A cache of keys and values in which slot t of a row holds token t of its text or, where rows share their prompts, the
t-th token from its prompt's last on.

Legend: R rows, n tokens of a row in one pass, S slots.

Rows are independent: each has a length of its own, a pass writes n slots from there on, and to take tokens back is to
shorten the length, since their slots are written again. So rows may accept different numbers of drafts, and a row that
ends may be replaced by another, without padding on the left and without holes.
"""

from typing import Any

from torch import Tensor, arange, zeros
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache

from weighted_mtp.decoding.shared_prompts import Prefix, SharedPrompts


class SlotCache(Cache):
    """Keys and values of up to `rows` rows; a pass takes the first R of them.

    shared  where prompts are kept, if rows share theirs; else each row has its prompt in its own slots

    Grows when longer rows are announced, so that memory follows what is there and not what might be.
    """

    def __init__(self, rows: int, shared: SharedPrompts | None = None) -> None:
        super().__init__(layers=[])
        self.shared = shared
        self._rows = rows
        self._keys: dict[int, Tensor] = {}  # layer → (rows, heads, S, channels)
        self._values: dict[int, Tensor] = {}
        self._size = 0
        self._visible = 0
        self._slots = zeros(0, 0)
        self._at: Tensor | None = None  # the pass's `_places`

    def aim(self, slots: Tensor, length: int) -> None:
        """Where the next pass writes: slots (R, n), all below `length`, up to which it reads."""
        if length > self._size:
            self._grow(length)
        self._visible, self._slots, self._at = length, slots, None
        if self.shared is not None:
            self.shared.aim(len(slots), slots.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new keys and values (R, heads, n, channels)."""
        return self.extend(
            layer_idx, key_states.transpose(1, 2).flatten(0, 1), value_states.transpose(1, 2).flatten(0, 1)
        )

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values (R n, heads, channels); all that is seen, (R, heads, S, channels)."""
        if layer not in self._keys:
            self._keys[layer], self._values[layer] = self._empty(keys), self._empty(values)
        for kept, new in ((self._keys[layer], keys), (self._values[layer], values)):
            kept.view(-1, kept.shape[-1]).index_copy_(0, self._places(kept.shape[1]), new.flatten(0, 1))
        return self._seen(self._keys[layer]), self._seen(self._values[layer])

    def attended(self, layer: int, queries: Tensor, added: Tensor) -> Tensor:
        """Attention (R, heads, n, channels) of queries of that shape over all that is seen.

        added  to the scores of a row's own slots, (R, 1, n, S)
        """
        keys, values = self._seen(self._keys[layer]), self._seen(self._values[layer])
        if self.shared is not None:
            return self.shared.attend(layer, queries, keys, values, added)
        grouped = keys.shape[1] != queries.shape[1]
        return scaled_dot_product_attention(queries, keys, values, attn_mask=added, enable_gqa=grouped)

    def _seen(self, kept: Tensor) -> Tensor:
        return kept[: len(self._slots), :, : self._visible]

    def _places(self, heads: int) -> Tensor:
        """Where in (rows × heads × S) the pass's tokens lie, all heads of a token together. Layers ask one by one."""
        if self._at is None or len(self._at) != self._slots.numel() * heads:
            device = self._slots.device
            lines = arange(len(self._slots) * heads, device=device).view(-1, 1, heads)
            self._at = (lines * self._size + self._slots[:, :, None]).flatten()
        return self._at

    def _empty(self, like: Tensor) -> Tensor:
        heads, channels = like.shape[1:]
        return like.new_zeros(self._rows, heads, self._size, channels)  # zeros: masked NaN is NaN still

    def _grow(self, length: int) -> None:
        self._size = max(length, self._size * 3 // 2)
        for kept in (self._keys, self._values):
            for layer, old in kept.items():
                new = old.new_zeros(*old.shape[:2], self._size, old.shape[-1])
                new[:, :, : old.shape[2]] = old
                kept[layer] = new

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and masks are given; nobody is to derive them from here

    def prefix(self, row: int, length: int, drafting: Tensor | None) -> Prefix:
        """A copy of the first `length` slots of a row."""
        keys, values = ({i: kept[i][row, :, :length].clone() for i in kept} for kept in (self._keys, self._values))
        return Prefix(length, keys, values, drafting)

    def start(self, row: int, prefix: Prefix) -> None:
        """Start a row with what a prompt left behind."""
        if self.shared is not None:
            self.shared.start(row, prefix)
            return
        if prefix.length > self._size:
            self._grow(prefix.length)
        for kept, parts in ((self._keys, prefix.keys), (self._values, prefix.values)):
            for layer, part in parts.items():
                if layer not in kept:
                    kept[layer] = self._empty(part.transpose(0, 1))
                kept[layer][row, :, : prefix.length] = part

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` slots of one row to another."""
        if self.shared is not None:
            self.shared.move(source, target)
        for kept in (self._keys, self._values):
            for tensor in kept.values():
                tensor[target, :, :length] = tensor[source, :, :length]
