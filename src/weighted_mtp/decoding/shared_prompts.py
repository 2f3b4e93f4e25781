"""Attention of rows that share prompts: a prompt's keys and values are kept, and read, once for all its samples.

Legend: R rows, n tokens of each, G prompts, M rows of a prompt at most, L the longest prompt, S slots of a row's own,
K heads of keys, Q queries of each of them (over a row's n tokens), C channels.

A row's attention over its prompt and over its own tokens are computed apart, the first with all queries of a prompt in
one product, and joined by their softmaxes' sums: exact but for rounding (Juravsky et al. 2024, Hydragen, arXiv
2402.05099, §3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, eq=False)
class Prefix:
    """What a prompt leaves behind without its last token, which is the first to be decoded: T − 1 tokens.

    keys, values  layer → (heads, T − 1, channels)
    drafting      logits (H − 1, V) of the drafting heads at its last token; None without heads, or of an empty prefix
    """

    length: int
    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    drafting: Tensor | None = None


@dataclass(frozen=True)
class _Part:
    """Attention over some of the keys, not yet divided by the softmax's sum.

    found    (…, Q, C)
    largest  score, (…, Q, 1)
    total    of exp(score − largest), (…, Q, 1)
    """

    found: Tensor
    largest: Tensor
    total: Tensor

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor, values: Tensor, added: Tensor) -> "_Part":
        """queries (…, Q, C), keys and values (…, S, C), added to scores (…, Q, S)."""
        scores = (queries @ keys.transpose(-1, -2)).float().mul_(queries.shape[-1] ** -0.5).add_(added)
        largest = scores.amax(dim=-1, keepdim=True)
        scores.sub_(largest).exp_()
        return cls(scores.to(values.dtype) @ values, largest, scores.sum(dim=-1, keepdim=True))

    def joined(self, other: "_Part") -> Tensor:
        largest = torch.maximum(self.largest, other.largest)
        mine, others = (self.largest - largest).exp_(), (other.largest - largest).exp_()
        total = self.total * mine + other.total * others
        return self.found * (mine / total) + other.found * (others / total)


class SharedPrompts:
    """The prompts of the rows in progress."""

    def __init__(self) -> None:
        self._of_row: list[Prefix] = []
        self._number: dict[Prefix, int] = {}  # of the G prompts; those that have ended stay until others begin
        self._keys: dict[int, Tensor] = {}  # layer → (G, K, L, C)
        self._values: dict[int, Tensor] = {}
        self._outside: Tensor  # −inf behind a prompt's end, (G, 1, 1, L)
        self._most = 0  # M
        self._place: Tensor  # of a row among G M, (R,)

    def start(self, row: int, prompt: Prefix) -> None:
        self._of_row[row : row + 1] = [prompt]

    def move(self, source: int, target: int) -> None:
        self._of_row[target] = self._of_row[source]

    def aim(self, rows: int, device: torch.device) -> None:
        """Before a pass of the first `rows` rows."""
        del self._of_row[rows:]
        if not self._number.keys() >= set(self._of_row):
            self._stack(list(dict.fromkeys(self._of_row)), device)
        taken = [0] * len(self._number)
        places = []
        for g in (self._number[prompt] for prompt in self._of_row):
            places.append((g, taken[g]))
            taken[g] += 1
        self._most = max(taken)
        self._place = torch.tensor([g * self._most + m for g, m in places], device=device)

    def _stack(self, prompts: Sequence[Prefix], device: torch.device) -> None:
        self._number = {prompt: g for g, prompt in enumerate(prompts)}
        lengths = [prompt.length for prompt in prompts]
        for stacked, parts in ((self._keys, [p.keys for p in prompts]), (self._values, [p.values for p in prompts])):
            for layer in min(parts, key=len):  # prompts that were read after heads stopped drafting lack theirs
                short = [(part[layer], max(lengths) - n) for part, n in zip(parts, lengths, strict=True)]
                stacked[layer] = torch.stack([pad(of_prompt, (0, 0, 0, missing)) for of_prompt, missing in short])
        outside = torch.arange(max(lengths), device=device) >= torch.tensor(lengths, device=device)[:, None]
        self._outside = torch.zeros(outside.shape, device=device).masked_fill_(outside, -torch.inf)[:, None, None]

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, added: Tensor) -> Tensor:
        """Attention of queries (R, heads, n, C) over their prompts and their rows' own keys and values (R, K, S, C).

        added  to the scores of a row's own keys, (R, 1, n, S)
        """
        asked = queries.reshape(len(keys), keys.shape[1], -1, keys.shape[-1])  # (R, K, Q, C)
        own = _Part.of(asked, keys, values, added.repeat(1, 1, asked.shape[2] // added.shape[2], 1))
        return own.joined(self._over_prompts(layer, asked)).to(queries.dtype).view(queries.shape)

    def _over_prompts(self, layer: int, asked: Tensor) -> _Part:
        """The part of (R, K, Q, C) queries that their prompts' keys and values give."""
        groups, (heads, per_row) = len(self._number), asked.shape[1:3]
        shape = (groups, self._most, heads, per_row)
        spread = asked.new_zeros(groups * self._most, *asked.shape[1:]).index_copy_(0, self._place, asked)
        queries = spread.view(*shape, -1).transpose(1, 2).reshape(groups, heads, -1, asked.shape[-1])
        part = _Part.of(queries, self._keys[layer], self._values[layer], self._outside)
        of_rows = [
            each.view(groups, heads, self._most, per_row, -1).transpose(1, 2).flatten(0, 1)[self._place]
            for each in (part.found, part.largest, part.total)
        ]
        return _Part(*of_rows)
