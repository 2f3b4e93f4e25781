"""The datasets that can be prepared: where each comes from, which file holds which split, what reads it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from weighted_mtp.data.schema import SMALL, Entry
from weighted_mtp.data.sources import codecontests, evalplus, gsm8k, humaneval, mbpp, own
from weighted_mtp.data.sources.rows import Reading
from weighted_mtp.errors import UserError

MICRO = "micro"
TRAIN = "train"

Split = str | None
"""Split that a whole file belongs to; None for a file whose rows are of several."""

SplitFiles = Mapping[Split, tuple[str, ...]]
"""Which files hold a split: glob patterns, of which the first that matches anything counts."""


@dataclass(frozen=True)
class Dataset:
    """A dataset from outside.

    read          its reader: file → entries
    files         the files as its authors (or the collection of pairs) publish them
    hub           repository on the hub, "" if there is none; `hub_files` are its Parquet files. EvalPlus' there have
                  base and plus inputs in one list, in test code that needs numpy: its releases keep them apart
    executes      whether reading it runs its references, which only the command's own process can
    is_benchmark  whether other datasets' training splits are compared with its evaluation splits, too
    """

    name: str
    read: Callable[[Path, Reading], Iterator[Entry]]
    files: SplitFiles
    hub: str = ""
    hub_files: SplitFiles | None = None
    executes: bool = False
    is_benchmark: bool = False

    @property
    def has_training(self) -> bool:
        """Whether there is a split to train on, in a file of its own or among others."""
        return not self.files.keys().isdisjoint({TRAIN, None})

    def file_names(self) -> str:
        """The files to look for in words: "train.jsonl, test.jsonl"."""
        return ", ".join(names[0] for names in self.files.values())


def _json_lines(*stems: str) -> tuple[str, ...]:
    return tuple(f"{stem}.jsonl{end}" for stem in stems for end in ("", ".gz"))


_TRAIN_VALID_TEST: SplitFiles = {
    "validation": _json_lines("valid", "validation"),
    "test": _json_lines("test"),
    TRAIN: _json_lines("train"),
}

_OWN_FOLDER: SplitFiles = {
    split: tuple(f"{stem}.{end}" for stem in stems for end in ("jsonl", "jsonl.gz", "json", "parquet"))
    for split, stems in {"validation": ("validation", "valid"), "test": ("test",), TRAIN: ("train",)}.items()
}

DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "humaneval",
            humaneval.read,
            {"test": _json_lines("HumanEval")},
            "openai/openai_humaneval",
            {"test": ("openai_humaneval/test-*.parquet",)},
            is_benchmark=True,
        ),
        Dataset(
            "mbpp",
            mbpp.read,
            {None: _json_lines("mbpp")},
            "google-research-datasets/mbpp",
            {None: ("full/*.parquet",)},
            is_benchmark=True,
        ),
        Dataset(
            "gsm8k",
            gsm8k.read,
            {"test": _json_lines("test"), TRAIN: _json_lines("train")},
            "openai/gsm8k",
            {"test": ("main/test-*.parquet",), TRAIN: ("main/train-*.parquet",)},
            is_benchmark=True,
        ),
        Dataset(
            "codecontests",
            codecontests.read,
            _TRAIN_VALID_TEST,
            "deepmind/code_contests",
            {
                "validation": ("data/valid-*.parquet",),
                "test": ("data/test-*.parquet",),
                TRAIN: ("data/train-*.parquet",),
            },
            is_benchmark=True,
        ),
        Dataset(
            "humaneval+",
            evalplus.read_humaneval,
            {"test": _json_lines("HumanEvalPlus")},
            executes=True,
            is_benchmark=True,
        ),
        Dataset("mbpp+", evalplus.read_mbpp, {"test": _json_lines("MbppPlus")}, executes=True, is_benchmark=True),
        Dataset("codecontests_pairs", codecontests.read, _TRAIN_VALID_TEST),
        Dataset("llm_pairs", partial(codecontests.read, origin="model"), {None: _json_lines("apps")}),
        Dataset("condefects", codecontests.read, {None: _json_lines("python_pairs")}),
    )
}
NAMES = (MICRO, *DATASETS)
ALL = (MICRO, *(name for name, dataset in DATASETS.items() if dataset.hub))
"""What `all` means: everything that can be had without a folder of the user's own."""


def dataset_named(name: str) -> Dataset:
    """A dataset by name. Raises UserError for an unknown one."""
    if name not in DATASETS:
        raise UserError(f"dataset {name!r} is unknown: choose one of {', '.join(NAMES)}")
    return DATASETS[name]


_OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def own_dataset(name: str, source: Path | None = None) -> Dataset:
    """A user's own dataset: one file with all splits, or, of a folder, a file a split.

    Raises UserError for a name that is another's, or that is none of a folder.
    """
    taken = name in NAMES or name.endswith(SMALL)
    if taken or not _OWN_NAME.fullmatch(name):
        why = "is that of another dataset" if taken else "must be letters, digits, dots, dashes and underscores"
        raise UserError(f"--name {name}: {why}; choose another name")
    return Dataset(name, own.read, _OWN_FOLDER if source is not None and source.is_dir() else {None: ("*.jsonl",)})


def find_files(dataset: Dataset, source: Path) -> dict[Split, list[Path]]:
    """The dataset's files in `source` or its folder `<dataset>`, in the authors' form or the hub's.

    `source` may be the one file of a dataset that has but one. Splits without a file are absent.

    Raises UserError if nothing is found.
    """
    if source.is_file() and len(dataset.files) == 1:
        return {next(iter(dataset.files)): [source]}
    layouts = [dataset.files, *([dataset.hub_files] if dataset.hub_files else [])]
    for folder in (source / dataset.name, source):
        for layout in layouts:
            found = {split: files for split, names in layout.items() if (files := _first_match(folder, names))}
            if found:
                return found
    flag, wanted = "--source", f"a folder with {dataset.file_names()} (or .gz of them)"
    if dataset.name not in NAMES:
        flag, wanted = "--import", "a file of JSON lines or Parquet, or a folder with one for each split"
    missing = "does not exist" if not source.exists() else f"has none of {dataset.name}'s files"
    raise UserError(f"{flag} {source}: {missing}: give {wanted}")


def _first_match(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found
    return []
