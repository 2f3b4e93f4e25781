"""Tokenized examples, and the microbatches of an epoch.

Shapes: N samples, B samples of a microbatch, T tokens of its longest.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from weighted_mtp.data.prompts import Example
from weighted_mtp.errors import UserError

_POOL = 64  # microbatches sorted together: the larger, the less padding and the less random their company
_JITTER = 0.015  # of lengths while sorting, so that a data set of one pool is not cut the same way every epoch
_NO_SAMPLE, _BLANK_LENGTH = -1, 8  # of blank batches
_MAX_PADDING = 0.2  # a microbatch ends before a sample would be padded by more than this share


@dataclass(frozen=True)
class TokenStore:
    """All examples in flat arrays: 1e5 samples cost no Python objects but their ids.

    Row i is `ids[offsets[i]:offsets[i + 1]]`, its response begins at `response_start[i]` within the row.
    """

    ids: NDArray[np.int32]  # (tokens,)
    offsets: NDArray[np.int64]  # (N + 1,)
    response_start: NDArray[np.int32]  # (N,)
    marks: NDArray[np.uint8]  # (tokens,), bits of `prompts.MARKS`
    sample_ids: tuple[str, ...]
    n_dropped: int = 0  # longer than max_length and left out
    n_truncated: int = 0  # longer than max_length and cut (they end without EOS)

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each row."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Batch:
    """One microbatch, right-padded."""

    input_ids: torch.Tensor  # (B, T) int64
    attention_mask: torch.Tensor  # (B, T) bool, False on padding
    response_mask: torch.Tensor  # (B, T) bool, True on response tokens with EOS
    sample_ids: torch.Tensor  # (B,) int64, rows of the store
    marks: torch.Tensor  # (B, T) uint8, bits of `prompts.MARKS`: what is known of which tokens decide

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    @property
    def is_blank(self) -> bool:
        """Whether it is one of `blank_batch`, which counts for nothing."""
        return int(self.sample_ids[0]) == _NO_SAMPLE


def build_store(
    examples: Iterable[tuple[str, Example]],
    max_length: int,
    too_long: Literal["drop", "truncate", "error"] = "drop",
) -> TokenStore:
    """Gather (sample id, example) pairs. What is longer than `max_length` tokens is dropped, cut, or refused.

    Raises UserError if nothing is left, if a prompt alone fills `max_length` under `truncate`, or under `error` if
    any sample is too long.
    """
    rows: list[NDArray[np.int32]] = []
    marks: list[bytes] = []
    starts: list[int] = []
    names: list[str] = []
    dropped = truncated = 0
    for name, example in examples:
        ids = example.input_ids
        if len(ids) > max_length:
            if too_long == "drop":
                dropped += 1
                continue
            _refuse_too_long(name, example, max_length, too_long)
            ids = ids[:max_length]
            truncated += 1
        rows.append(np.asarray(ids, dtype=np.int32))
        marks.append(example.marks[: len(ids)])
        starts.append(example.response_start)
        names.append(name)
    if not rows:
        cause = (
            f"all {dropped} are longer than max_length {max_length}: raise it" if dropped else "the data set is empty"
        )
        raise UserError(f"no sample to train on: {cause}")
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return TokenStore(
        np.concatenate(rows),
        offsets,
        np.asarray(starts, dtype=np.int32),
        np.frombuffer(b"".join(marks), dtype=np.uint8),
        tuple(names),
        dropped,
        truncated,
    )


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


def collate(store: TokenStore, rows: NDArray[np.int64], pad_id: int) -> Batch:
    """Right-padded tensors of the given rows."""
    lengths = store.lengths[rows]
    position = np.arange(int(lengths.max()))[None, :]  # (1, T)
    real = position < lengths[:, None]  # (B, T)
    flat = np.where(real, store.offsets[rows][:, None] + position, 0)
    ids = np.where(real, store.ids[flat], pad_id).astype(np.int64)
    response = real & (position >= store.response_start[rows][:, None])
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(real),
        response_mask=torch.from_numpy(response),
        sample_ids=torch.from_numpy(np.asarray(rows, dtype=np.int64)),
        marks=torch.from_numpy(np.where(real, store.marks[flat], 0).astype(np.uint8)),
    )


def blank_batch(width: int, pad_id: int) -> Batch:
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


def _refuse_too_long(name: str, example: Example, max_length: int, too_long: str) -> None:
    if example.response_start >= max_length:
        raise UserError(
            f"the prompt of {name} has {example.response_start} tokens, which leaves no room for a response "
            f"in max_length {max_length}: raise max_length or set too_long to 'drop'"
        )
    if too_long == "error":
        raise UserError(
            f"{name} has {len(example.input_ids)} tokens, more than max_length {max_length}: "
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
