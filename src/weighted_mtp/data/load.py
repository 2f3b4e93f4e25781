"""From the `data:` section to tokenized training and validation examples."""

import datetime
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.batches import TokenStore, TooLong, join, within
from weighted_mtp.data.index import sampling_from
from weighted_mtp.data.sampling import SampleConfig, sample_solutions
from weighted_mtp.data.template import Template
from weighted_mtp.data.tokens import split_tokens
from weighted_mtp.errors import UserError
from weighted_mtp.progress import console
from weighted_mtp.section import Section


class SplitsConfig(Section):
    """Which datasets to learn from, and how their problems are prompted."""

    root: Path = Path("storage/datasets")
    """Folder of all datasets."""
    dataset: str | tuple[str, ...] = "micro"
    """Name of the dataset, or several, [mbpp, codecontests_pairs], learned from together: all samples of each per
    epoch."""
    train: str = "train"
    """Split to train on."""
    validation: str | None = "validation"
    """Split to validate on, whose problems training never shows; null for none."""
    template: Template = "alpaca"
    """The form of a prompt; `docs/DATA.md` shows each."""
    date: datetime.date | None = None
    """The date that a chat template takes for today, if it names one; the day on which the run started if not given."""
    tokens: Path | None = None
    """Folder for token files; null for `.tokens` under `root`. Set another one if that is slow or cannot be written."""

    def folders(self, split: str) -> list[Path]:
        """Where that split of each dataset lies."""
        return [self.root / dataset / split for dataset in self.datasets]

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names in `dataset`."""
        return (self.dataset,) if isinstance(self.dataset, str) else self.dataset

    @model_validator(mode="after")
    def _each_dataset_once(self) -> "SplitsConfig":
        if not 0 < len(set(self.datasets)) == len(self.datasets):
            raise ValueError(f"dataset={list(self.datasets)}: give at least one, and each once")
        return self


class DataConfig(SplitsConfig):
    """Which programs to learn from, how they are sampled, and how they are batched."""

    max_length: int = Field(1024, ge=8)
    """Tokens of prompt and response together."""
    too_long: TooLong = "drop"
    """What happens to samples longer than `max_length`."""
    max_tokens: int = Field(8192, ge=8)
    """Padded tokens of a microbatch."""
    sampling: SampleConfig | None = None
    """Which of a training split's solutions, by its index; null for all correct ones. Of several datasets, of each."""


def load_stores(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, seed: int, day: datetime.date | None = None
) -> tuple[TokenStore, TokenStore | None]:
    """Correct solutions of both splits as tokens; of the training split those that `sampling` chooses with `seed`.

    day  as of `render_prompt`

    Raises `UserError` for a dataset that is missing or empty, and for an index that is needed and missing.
    """

    def joined(split: str, sampling: SampleConfig | None) -> TokenStore:
        return join([_load_split(config, folder, tokenizer, sampling, seed, day) for folder in config.folders(split)])

    return joined(config.train, config.sampling), joined(config.validation, None) if config.validation else None


def _load_split(
    config: DataConfig,
    directory: Path,
    tokenizer: PreTrainedTokenizerBase,
    sampling: SampleConfig | None,
    seed: int,
    day: datetime.date | None,
) -> TokenStore:
    rows = None
    if sampling is not None:
        with sampling_from(directory) as index:
            rows = sample_solutions(index, sampling, seed)
    found = split_tokens(directory, tokenizer, config.template, config.tokens, day)
    if rows is None:
        rows = np.flatnonzero(found.is_correct)
        if not len(rows):
            raise UserError(
                f"{directory}: holds no correct solution to learn from: choose another data.dataset or split"
            )
    store = within(found.store.at(rows), config.max_length, config.too_long)
    if store.n_dropped or store.n_truncated:
        console.print(
            f"{directory.parent.name}/{directory.name}: {store.n_dropped} samples dropped and {store.n_truncated} cut, "
            f"longer than data.max_length={config.max_length}"
        )
    return store
