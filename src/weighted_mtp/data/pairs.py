"""Pairs of a correct and an incorrect program for the same problem, tokenized: what critics learn from."""

import datetime
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.batches import TokenStore, join
from weighted_mtp.data.index import sampling_from
from weighted_mtp.data.load import SplitsConfig
from weighted_mtp.data.sampling import PairConfig, sample_pairs
from weighted_mtp.data.tokens import split_tokens
from weighted_mtp.errors import UserError
from weighted_mtp.progress import console


class PairDataConfig(SplitsConfig):
    """Which pairs to learn from, how their problems are prompted, and how they are batched."""

    max_length: int = Field(1024, ge=8)
    """Tokens of prompt and response together; a pair with a longer program is dropped."""
    max_tokens: int = Field(8192, ge=16)
    """Padded tokens of a microbatch."""
    pairs: PairConfig = PairConfig()
    """Which pairs; of several datasets, of each."""


@dataclass(frozen=True)
class PairStore:
    """Tokenized programs, and which of them are pairs: (M, 2) rows of the store, (correct, incorrect)."""

    store: TokenStore
    pairs: NDArray[np.int64]


def load_pairs(
    config: PairDataConfig, tokenizer: PreTrainedTokenizerBase, seed: int, day: datetime.date | None = None
) -> tuple[PairStore, PairStore | None]:
    """The sampled pairs of both splits as tokens; which ones is a function of `seed`. `pairs.portion` is of training.

    day  as of `render_prompt`

    Raises `UserError` for a dataset or index that is missing, and for a split without pairs.
    """

    def joined(split: str, chosen: PairConfig) -> PairStore:
        store = join([_load_split(config, folder, chosen, tokenizer, seed, day) for folder in config.folders(split)])
        return PairStore(store, np.arange(len(store)).reshape(-1, 2))

    held_out = config.pairs.model_copy(update={"portion": (0.0, 1.0)})
    return joined(config.train, config.pairs), joined(config.validation, held_out) if config.validation else None


def _load_split(
    config: PairDataConfig,
    directory: Path,
    chosen: PairConfig,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    day: datetime.date | None,
) -> TokenStore:
    """Correct and incorrect program of each pair, one after the other."""
    with sampling_from(directory) as index:
        sampled = sample_pairs(index, chosen, seed)
        correct, incorrect = int(index.is_correct.sum()), int((~index.is_correct).sum())
    rows = np.stack([sampled.correct, sampled.incorrect], axis=1)
    store = split_tokens(directory, tokenizer, config.template, config.tokens, day).store
    kept = rows[(store.lengths[rows] <= config.max_length).all(axis=1)]
    if not len(kept):
        raise UserError(f"{directory}: no pair is within data.max_length={config.max_length}: raise it")
    dropped = f"; {len(rows) - len(kept)} more have one longer than data.max_length={config.max_length}"
    console.print(
        f"{directory.parent.name}/{directory.name}: {len(kept)} pairs of {correct} correct and {incorrect} incorrect "
        f"programs, as data.pairs chooses them{dropped if len(kept) < len(rows) else ''}",
        highlight=False,
        soft_wrap=True,
    )
    return store.at(kept.ravel())
