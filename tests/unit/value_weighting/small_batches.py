"""Batches of random tokens with unequal prompts and responses, and the ways of cutting them into microbatches."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from weighted_mtp.data.batches import Batch

LENGTHS = (12, 7, 9, 12, 5, 2)  # tokens of each sample
STARTS = (4, 1, 8, 2, 3, 1)  # where its response begins


def batch_of(lengths: Sequence[int] = LENGTHS, starts: Sequence[int] = STARTS, first_id: int = 10) -> Batch:
    position = torch.arange(max(lengths))
    real = position < torch.tensor(lengths)[:, None]
    return Batch(
        input_ids=torch.randint(0, 50, real.shape, generator=torch.Generator().manual_seed(0)),
        attention_mask=real,
        response_mask=real & (position >= torch.tensor(starts)[:, None]),
        sample_ids=first_id + torch.arange(len(lengths)),
        marks=torch.zeros(real.shape, dtype=torch.uint8),
    )


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some samples of a batch, padded to the longest of them alone."""
    part = batch.rows(list(rows))
    length = int(part.attention_mask.sum(1).max())
    names = ("input_ids", "attention_mask", "response_mask", "marks")
    return replace(part, **{name: getattr(part, name)[:, :length] for name in names})


def splits(batch: Batch) -> list[list[Batch]]:
    """The same samples as one microbatch, as two, and one by one in another order."""
    n = len(batch.sample_ids)
    return [
        [batch],
        [rows_of(batch, range(2)), rows_of(batch, range(2, n))],
        [rows_of(batch, [row]) for row in reversed(range(n))],
    ]


def by_sample(batches: Sequence[Batch], tensors: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Sample id → what `tensors` hold of its response tokens."""
    return {
        int(sample_id): tensor[row][batch.response_mask[row]]
        for batch, tensor in zip(batches, tensors, strict=True)
        for row, sample_id in enumerate(batch.sample_ids)
    }


def table(*more: int, seed: int = 1) -> torch.Tensor:
    """A number (or `more`) for every sample id below 64 and position below 16: a critic that splits cannot change."""
    return torch.randn(64, 16, *more, generator=torch.Generator().manual_seed(seed))


def look_up(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    return values[batch.sample_ids][:, : batch.input_ids.shape[1]]
