"""A cache of keys and values in which token t of a row lies in slot t.

Legend: R rows, n tokens of a row in one pass, S slots, V vocabulary, H heads of a policy.

Rows are independent: each has a length of its own, a pass writes n slots from there on, and to take tokens back is to
shorten the length, since their slots are written again. So rows may accept different numbers of drafts, and a row that
ends may be replaced by another, without padding on the left and without holes.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, arange
from transformers.cache_utils import Cache


@dataclass(frozen=True)
class Prefix:
    """What a prompt leaves behind without its last token, which is the first to be decoded: T − 1 tokens.

    keys, values  layer → (T − 1, heads, channels)
    drafting      logits (H − 1, V) of the drafting heads at its last token; None without heads, or of an empty prefix
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
        self._visible = self._in_pass = 0
        self._at: Tensor | None = None

    def aim(self, positions: Tensor, length: int) -> None:
        """Where the next pass writes: positions (R, n), all below `length`, up to which it reads."""
        if length > self._size:
            self._grow(length)
        self._visible, self._in_pass = length, positions.shape[0]
        first = arange(positions.shape[0], device=positions.device)[:, None] * self._size
        self._at = (first + positions).flatten()

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
        return self._put(self._keys[layer], keys), self._put(self._values[layer], values)

    def _put(self, kept: Tensor, new: Tensor) -> Tensor:
        assert self._at is not None
        kept.view(-1, *kept.shape[2:]).index_copy_(0, self._at, new)
        return kept[: self._in_pass, : self._visible].transpose(1, 2)

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self._rows, self._size, *like.shape[1:])  # zeros: masked NaN is NaN still

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
