"""From upstream's own files to `<root>/<dataset>/<split>/`; the embedded micro benchmark needs no file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from weighted_mtp.data.schema import PROBLEMS_FILE, SOLUTIONS_FILE, Records, by_split, write_split
from weighted_mtp.data.sources import humaneval, mbpp
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.errors import UserError
from weighted_mtp.progress import progress

MICRO = "micro"


@dataclass(frozen=True)
class Upstream:
    """A public dataset: the file its authors publish, where that is found, and what reads it."""

    file: str
    home: str
    read: Callable[[Path], Records]


UPSTREAM = {
    "humaneval": Upstream("HumanEval.jsonl.gz", "github.com/openai/human-eval, data/", humaneval.read),
    "mbpp": Upstream("mbpp.jsonl", "github.com/google-research/google-research, mbpp/", mbpp.read),
}
DATASETS = (MICRO, *UPSTREAM)


def prepare(dataset: str, root: Path, source: Path | None) -> Path:
    """Write one dataset under `root`; returns its folder.

    source  folder with upstream's file, or that file; not for `micro`, which is generated

    Raises `UserError` for an unknown dataset, a missing source, and whatever its reader refuses.
    """
    if dataset == MICRO:
        return prepare_micro(root)
    if dataset not in UPSTREAM:
        raise UserError(f"dataset {dataset!r} is unknown: choose one of {', '.join(DATASETS)}")
    splits = by_split(*UPSTREAM[dataset].read(_find(dataset, source)))
    for split, (problems, solutions) in splits.items():
        write_split(root / dataset / split, problems, solutions)
    return root / dataset


def prepare_micro(root: Path, config: MicroConfig | None = None) -> Path:
    """Generate the micro benchmark, unless it is there with the same configuration already."""
    config = config or MicroConfig()
    total = config.n_train + config.n_validation + config.n_test + config.n_test_pairs
    with progress("generating the micro benchmark", total) as advance:
        return write_micro(root, config, advance)


def prepare_embedded(dataset: str, root: Path) -> None:
    """Generate `dataset` where it is embedded and missing; leave any other, and a generated one, alone."""
    if dataset == MICRO and not (root / MICRO / "manifest.json").exists():
        prepare_micro(root)


def split_sizes(directory: Path) -> dict[str, tuple[int, int]]:
    """(problems, solutions) of every split of a prepared dataset."""
    return {
        split.name: (
            pq.read_metadata(split / PROBLEMS_FILE).num_rows,
            pq.read_metadata(split / SOLUTIONS_FILE).num_rows,
        )
        for split in sorted(directory.iterdir())
        if not split.name.startswith(".") and (split / PROBLEMS_FILE).exists()
    }


def _find(dataset: str, source: Path | None) -> Path:
    upstream = UPSTREAM[dataset]
    if source is None:
        raise UserError(f"{dataset}: give --source, a folder with {upstream.file} (from {upstream.home})")
    name = upstream.file.removesuffix(".gz")
    places = (source, source / name, source / f"{name}.gz", source / dataset / name, source / dataset / f"{name}.gz")
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"--source {source}: holds neither {name} nor {name}.gz (from {upstream.home})")
    return found
