"""From the `data:` section to tokenized training and validation examples."""

from pathlib import Path

import numpy as np
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from weighted_mtp.config import Section
from weighted_mtp.data.batches import TokenStore, TooLong, within
from weighted_mtp.data.index import read_index
from weighted_mtp.data.prompts import Template
from weighted_mtp.data.sampling import SampleConfig, sample_solutions
from weighted_mtp.data.tokens import split_tokens
from weighted_mtp.errors import UserError
from weighted_mtp.progress import console


class SplitsConfig(Section):
    """Which dataset to learn from, and how its problems are asked."""

    root: Path = Path("storage/datasets")
    dataset: str = "micro"
    train: str = "train"
    """Split to train on."""
    validation: str | None = "validation"
    """Split to validate on, whose problems training never shows; null for none."""
    template: Template = "alpaca"
    """How a problem is asked; `docs/SETUP.md` shows each."""
    tokens: Path | None = None
    """Folder for token files; null for `.tokens` under `root`. Another one where that is slow or cannot be written."""


class DataConfig(SplitsConfig):
    """Which programs to learn from, how they are asked for, and how they are batched."""

    max_length: int = Field(1024, ge=8)
    """Tokens of prompt and response together."""
    too_long: TooLong = "drop"
    max_tokens: int = Field(8192, ge=8)
    """Padded tokens of a microbatch."""
    sampling: SampleConfig | None = None
    """Which of the training split's solutions, by its index; null for all correct ones."""


def load_stores(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[TokenStore, TokenStore | None]:
    """Correct solutions of both splits as tokens; of the training split those that `sampling` chooses with `seed`.

    Raises `UserError` for a dataset that is missing or empty, and for an index that is needed and missing.
    """
    train = _load_split(config, config.train, tokenizer, config.sampling, seed)
    return train, _load_split(config, config.validation, tokenizer, None, seed) if config.validation else None


def _load_split(
    config: DataConfig, split: str, tokenizer: PreTrainedTokenizerBase, sampling: SampleConfig | None, seed: int
) -> TokenStore:
    directory = config.root / config.dataset / split
    rows = sample_solutions(read_index(directory), sampling, seed) if sampling is not None else None
    found = split_tokens(directory, tokenizer, config.template, config.tokens)
    if rows is None:
        rows = np.flatnonzero(found.is_correct)
        if not len(rows):
            raise UserError(
                f"{directory}: holds no correct solution to learn from: choose another data.dataset or split"
            )
    store = within(found.store.at(rows), config.max_length, config.too_long)
    if store.n_dropped or store.n_truncated:
        console.print(
            f"{config.dataset}/{split}: {store.n_dropped} samples dropped and {store.n_truncated} cut, "
            f"longer than data.max_length={config.max_length}"
        )
    return store
