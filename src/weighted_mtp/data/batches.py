"""Tokenized examples, and the microbatches of an epoch.

Shapes: N samples, B samples of a microbatch, T tokens of its longest.
"""

import hashlib
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from weighted_mtp.data.prompts import Example
from weighted_mtp.errors import UserError

TooLong = Literal["drop", "truncate", "error"]
PADDING = 0
"""Token id: any does, since padding is masked, and every model embeds this one."""

_POOL = 64  # microbatches sorted together: the larger, the less padding and the less random their company
_JITTER = 0.015  # of lengths while sorting, so that a data set of one pool is not cut the same way every epoch
_NO_SAMPLE, _BLANK_LENGTH = -1, 8  # of blank batches
_MAX_PADDING = 0.2  # a microbatch ends before a sample would be padded by more than this share


class _Joined:
    """Arrays one after the other, indexed as one without being copied: they may be maps of files."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[Any]:
        of = np.searchsorted(self.ends, places, side="right")
        found = np.empty(places.shape, self.parts[0].dtype)
        for i, part in enumerate(self.parts):
            found[of == i] = part[places[of == i] - (self.ends[i] - len(part))]
        return found


@dataclass(frozen=True)
class TokenStore:
    """Examples as places in flat arrays, which may be maps of files: 1e6 samples cost no Python objects.

    Row i is its prompt, `ids[prompt_at[i]:][:response_start[i]]`, and its response, `ids[response_at[i]:]`, together
    `lengths[i]` tokens: samples of one problem share their prompt.
    """

    ids: NDArray[np.int32] | _Joined  # (tokens,)
    marks: NDArray[np.uint8] | _Joined  # (tokens,), bits of `prompts.MARKS`
    prompt_at: NDArray[np.int64]  # (N,)
    response_at: NDArray[np.int64]  # (N,)
    response_start: NDArray[np.int64]  # (N,) within the row
    lengths: NDArray[np.int64]  # (N,)
    sample_ids: Sequence[str]
    n_dropped: int = 0  # longer than max_length and left out
    n_truncated: int = 0  # longer than max_length and cut (they end without EOS)

    @classmethod
    def contiguous(
        cls,
        ids: NDArray[np.int32],
        marks: NDArray[np.uint8],
        response_start: NDArray[np.integer],
        lengths: NDArray[np.integer],
        sample_ids: Sequence[str],
    ) -> "TokenStore":
        """Rows that follow each other in `ids`, each with a prompt of its own."""
        length, border = np.asarray(lengths, dtype=np.int64), np.asarray(response_start, dtype=np.int64)
        start = np.cumsum(length) - length
        return cls(ids, marks, start, start + border, border, length, sample_ids)

    def __len__(self) -> int:
        return len(self.lengths)

    def largest_id(self) -> int:
        """The largest id in the arrays."""
        parts = self.ids.parts if isinstance(self.ids, _Joined) else [self.ids]
        return max(int(part.max()) for part in parts if len(part))

    def rows_checksum(self) -> str:
        """SHA-256 of which tokens are rows, in their order; what these tokens are is not looked at."""
        places = (self.prompt_at, self.response_at, self.response_start, self.lengths)
        return hashlib.sha256(b"".join(place.astype("<i8").tobytes() for place in places)).hexdigest()

    def at(self, rows: NDArray[np.int64]) -> "TokenStore":
        """Only the given rows, in that order."""
        return replace(
            self,
            prompt_at=self.prompt_at[rows],
            response_at=self.response_at[rows],
            response_start=self.response_start[rows],
            lengths=self.lengths[rows],
            sample_ids=_Chosen(self.sample_ids, rows),
        )


class _Chosen(Sequence[str]):
    """Names at `rows`, looked up when they are needed."""

    def __init__(self, names: Sequence[str], rows: NDArray[np.int64]) -> None:
        self.names, self.rows = names, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        assert not isinstance(place, slice)
        return self.names[int(self.rows[place])]


class ResponseSpan(NamedTuple):
    """Where a row's response lies: columns start … end − 1."""

    sample_id: int
    start: int
    end: int


@dataclass(frozen=True)
class Batch:
    """One microbatch, padded on the right.

    What follows from the given tensors is taken once, where the batch is made, on the CPU: on a GPU every boolean mask
    is a wait for the device.
    """

    input_ids: torch.Tensor  # (B, T) int64
    attention_mask: torch.Tensor  # (B, T) bool, False on padding
    response_mask: torch.Tensor  # (B, T) bool, True on response tokens with EOS; one run of columns per row
    sample_ids: torch.Tensor  # (B,) int64, rows of the store
    marks: torch.Tensor  # (B, T) uint8, bits of `prompts.MARKS`: what is known of which tokens decide
    response_at: torch.Tensor = field(init=False)  # (N,) int64, response tokens as places in a flattened (B, T)
    spans: tuple[ResponseSpan, ...] = field(init=False)  # one per row; start = end in a row without response

    def __post_init__(self) -> None:
        mask = self.response_mask
        bounds = torch.stack([self.sample_ids, mask.int().argmax(1), mask.sum(1)], dim=1).tolist()
        object.__setattr__(self, "response_at", mask.flatten().nonzero().squeeze(1))
        object.__setattr__(self, "spans", tuple(ResponseSpan(i, start, start + n) for i, start, n in bounds))

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device. Only copies to a GPU run beside the computation: on the CPU the values
        would be read before they have arrived."""
        beside = torch.device(device).type == "cuda"
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                object.__setattr__(moved, name, value.to(device, non_blocking=beside))
        return moved

    def rows(self, chosen: slice | Sequence[int]) -> "Batch":
        """Some of its rows."""
        given = [f.name for f in fields(self) if f.init]
        return Batch(**{name: getattr(self, name)[chosen] for name in given})

    def targets(self, k: int) -> torch.Tensor:
        """(N_k,) the response tokens that head k can predict, as places in a flattened (B, T): all but those in the
        first k columns, before which no head k stands."""
        if all(k <= start for _, start, end in self.spans if start < end):
            return self.response_at
        return self.response_at[self.response_at % self.response_mask.shape[1] >= k]

    def at_response(self, x: torch.Tensor) -> torch.Tensor:
        """Entries of x (B, T, …) at the response tokens, (N, …), row by row."""
        return x.flatten(0, 1).index_select(0, self.response_at)

    @property
    def is_blank(self) -> bool:
        """Whether it is one of `blank_batch`, which counts for nothing."""
        return self.spans[0].sample_id == _NO_SAMPLE


def build_store(examples: Iterable[tuple[str, Example]]) -> TokenStore:
    """(sample id, example) pairs, gathered in memory. Raises UserError if there is none."""
    pairs = list(examples)
    if not pairs:
        raise UserError("no sample to train on: the data set is empty")
    names, found = zip(*pairs, strict=True)
    return TokenStore.contiguous(
        np.concatenate([np.asarray(example.input_ids, dtype=np.int32) for example in found]),
        np.frombuffer(b"".join(example.marks for example in found), dtype=np.uint8),
        np.asarray([example.response_start for example in found]),
        np.asarray([len(example.input_ids) for example in found]),
        names,
    )


def join(stores: Sequence[TokenStore]) -> TokenStore:
    """The rows of all stores, store after store; no token is copied."""
    if len(stores) == 1:
        return stores[0]
    before = np.cumsum([0, *(len(store.ids) for store in stores[:-1])])
    return TokenStore(
        ids=_Joined([store.ids for store in stores]),
        marks=_Joined([store.marks for store in stores]),
        prompt_at=np.concatenate([store.prompt_at + b for store, b in zip(stores, before, strict=True)]),
        response_at=np.concatenate([store.response_at + b for store, b in zip(stores, before, strict=True)]),
        response_start=np.concatenate([store.response_start for store in stores]),
        lengths=np.concatenate([store.lengths for store in stores]),
        sample_ids=[name for store in stores for name in store.sample_ids],
        n_dropped=sum(store.n_dropped for store in stores),
        n_truncated=sum(store.n_truncated for store in stores),
    )


def within(store: TokenStore, max_length: int, too_long: TooLong = "drop") -> TokenStore:
    """The store with what is longer than `max_length` tokens dropped or cut, or refused.

    Raises UserError if nothing is left, if the prompt by itself fills `max_length` under `truncate`, or under `error`
    if
    any sample is too long.
    """
    long = store.lengths > max_length
    n_long = int(long.sum())
    if too_long == "drop":
        if n_long == len(store):
            raise UserError(f"no sample to train on: all {n_long} are longer than max_length {max_length}: raise it")
        return replace(store.at(np.flatnonzero(~long)), n_dropped=n_long) if n_long else store
    for row in np.flatnonzero(long & ((store.response_start >= max_length) | (too_long == "error")))[:1]:
        _refuse_too_long(store.sample_ids[row], int(store.response_start[row]), int(store.lengths[row]), max_length)
    return replace(store, lengths=np.minimum(store.lengths, max_length), n_truncated=n_long)


def plan_epoch(lengths: NDArray[np.int64], max_tokens: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Microbatches of an epoch as row numbers: each row once, `B * T <= max_tokens`, little padding, random order.

    Rows are shuffled, sorted roughly by length within pools of some 64 microbatches, cut greedily from the longest
    down, and the microbatches shuffled. A pure function of its arguments, so `plan_epoch(...)[step]` resumes anywhere.

    Raises UserError if a sample is longer than `max_tokens`.
    """
    if len(lengths) == 0:
        return []
    longest = int(lengths.max())
    if longest > max_tokens:
        raise UserError(f"max_tokens {max_tokens} is less than the longest sample's {longest} tokens: raise it")
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    n_pools = max(1, round(lengths.sum() / (_POOL * max_tokens)))
    batches: list[NDArray[np.int64]] = []
    for rows in np.array_split(order, n_pools):
        about = lengths[rows] * generator.uniform(1.0 - _JITTER, 1.0 + _JITTER, len(rows))
        rows = rows[np.argsort(-about, kind="stable")]
        batches += _cut(rows, lengths[rows], max_tokens)
    return [batches[i] for i in generator.permutation(len(batches))]


def padding_share(lengths: NDArray[np.int64], plan: list[NDArray[np.int64]]) -> float:
    """Share of padding among all the positions that a plan computes on."""
    padded = sum(len(rows) * int(lengths[rows].max()) for rows in plan)
    return 1.0 - sum(int(lengths[rows].sum()) for rows in plan) / padded


def collate(store: TokenStore, rows: NDArray[np.int64], pad_id: int = PADDING) -> Batch:
    """Right-padded tensors of the given rows."""
    lengths, border = store.lengths[rows], store.response_start[rows][:, None]
    position = np.arange(int(lengths.max()))[None, :]  # (1, T)
    real = position < lengths[:, None]  # (B, T)
    in_response = position >= border
    start = np.where(in_response, store.response_at[rows][:, None] - border, store.prompt_at[rows][:, None])
    flat = np.where(real, start + position, 0)
    ids = np.where(real, store.ids[flat], pad_id).astype(np.int64)
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(real),
        response_mask=torch.from_numpy(real & in_response),
        sample_ids=torch.from_numpy(np.asarray(rows, dtype=np.int64)),
        marks=torch.from_numpy(np.where(real, store.marks[flat], 0).astype(np.uint8)),
    )


def blank_batch(width: int, pad_id: int = PADDING) -> Batch:
    """A microbatch of `width` rows of padding and no sample: what a rank computes on while others still have samples.

    Ranks must call the model equally often. Nothing of it is a response, and the training loop counts it as nothing.
    """
    ids = torch.full((width, _BLANK_LENGTH), pad_id)
    return Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        response_mask=torch.zeros_like(ids, dtype=torch.bool),
        sample_ids=torch.full((width,), _NO_SAMPLE),
        marks=torch.zeros_like(ids, dtype=torch.uint8),
    )


def _refuse_too_long(name: str, response_start: int, length: int, max_length: int) -> None:
    if response_start >= max_length:
        raise UserError(
            f"the prompt of {name} has {response_start} tokens, which leaves no room for a response "
            f"in max_length {max_length}: raise max_length or set too_long to 'drop'"
        )
    raise UserError(
        f"{name} has {length} tokens, more than max_length {max_length}: "
        "raise max_length or set too_long to 'drop' or 'truncate'"
    )


def _cut(rows: NDArray[np.int64], lengths: NDArray[np.int64], max_tokens: int) -> list[NDArray[np.int64]]:
    """Cut rows sorted roughly from long to short: each piece fits `max_tokens`, its lengths are not too far apart."""
    batches = []
    start = 0
    while start < len(rows):
        window = lengths[start : start + 2 * max_tokens // int(lengths[start])]
        longest = np.maximum.accumulate(window)
        shortest = np.minimum.accumulate(window)
        size = np.arange(1, len(window) + 1)
        fits = (longest * size <= max_tokens) & (shortest >= (1.0 - _MAX_PADDING) * longest)
        end = start + (len(window) if fits.all() else int(np.argmin(fits)))
        batches.append(rows[start:end])
        start = end
    return batches
