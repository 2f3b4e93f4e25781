"""Datasets for training and evaluation: fetched or read from a folder, brought into one schema, indexed, described.

    uv run python scripts/create_storage/setup_datasets.py --datasets all --steps process,small
    uv run wmtp data --datasets mbpp,gsm8k --source DIR

Every step can be repeated: what exists with the same options and input is kept.
"""

import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from weighted_mtp.data.index import INDEX_FILE, write_index
from weighted_mtp.data.preparation.prepare import prepare
from weighted_mtp.data.preparation.registry import DATASETS, NAMES, TRAIN, Dataset
from weighted_mtp.data.preparation.shards import Options
from weighted_mtp.data.preparation.stats import write_stats
from weighted_mtp.data.preparation.subsets import SliceOptions, write_slice
from weighted_mtp.data.prepared import require_manifest, split_checksums
from weighted_mtp.data.schema import SMALL
from weighted_mtp.data.tables import cannot_write
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.check_labels import Agreement, check_verdicts
from weighted_mtp.extras import can_draw
from weighted_mtp.files import atomic_file
from weighted_mtp.manifest import Manifest, files_present, write_manifest
from weighted_mtp.progress import progress
from weighted_mtp.report.datasets import (
    EXAMPLES_SHOWN,
    PICTURE,
    account,
    agreement_table,
    counts_table,
    plot_stats,
    stats_table,
)
from weighted_mtp.sandbox.reference import ReferenceRunner

TESTS_FILE = "tests.json"


@dataclass(frozen=True)
class DatasetRequest:
    """What to do with every dataset alike.

    tokenizer  gives the index its lengths; None: in characters
    workers    processes that read upstream's files, programs that `tests` runs at once
    own        a user's own dataset, whose file or folder `source` is
    """

    storage: Path
    source: Path | None
    options: Options
    slice: SliceOptions
    tokenizer: str | None
    tests_per_split: int
    workers: int
    own: Dataset | None = None

    def folder(self, name: str) -> Path:
        return self.storage / "datasets" / name


def process(name: str, request: DatasetRequest) -> None:
    """All splits, from upstream's files."""
    _prepare(name, request, only_evaluation=False)


def evaluation(name: str, request: DatasetRequest) -> None:
    """Only the evaluation splits, if the dataset is not processed as a whole."""
    _prepare(name, request, only_evaluation=True)


def _prepare(name: str, request: DatasetRequest, only_evaluation: bool) -> None:
    start = time.monotonic()
    with ReferenceRunner() as answers:
        manifest, is_new = prepare(
            request.own or name,
            request.storage,
            request.source,
            request.options,
            only_evaluation,
            answers,
            request.workers,
        )
    if not is_new:
        _say(f"{request.folder(name)}: up to date ({', '.join(manifest['splits'])})")
        return
    what = f"{name}, evaluation splits" if only_evaluation else name
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    seconds = time.monotonic() - start
    _say(f"{what}: {manifest['rows_in']:,} rows in, {seconds:.1f} s, at most {peak:,} MB of memory in this process")
    Console().print(counts_table(manifest["splits"]))
    for line in account(manifest):
        _say(f"  {line}")


def metadata(name: str, request: DatasetRequest) -> None:
    """`index.parquet` of every split, and the manifest's checksums."""
    folder = request.folder(name)
    manifest = require_manifest(folder)
    wanted, splits = {"tokenizer": request.tokenizer}, manifest["splits"]
    if manifest.get("index") == wanted and files_present(
        folder, manifest, [f"{split}/{INDEX_FILE}" for split in splits]
    ):
        _say(f"{folder}: index up to date")
        return
    total = sum(counts["correct"] + counts["incorrect"] for counts in splits.values())
    with progress(f"indexing {name}", total) as advance:
        for split in splits:
            write_index(folder / split, request.tokenizer, advance)
    write_manifest(folder, {**manifest, "index": wanted})
    _say(f"{folder}: index of {total:,} solutions, lengths in {request.tokenizer or 'characters'}")


def small(name: str, request: DatasetRequest) -> None:
    """`<name>-small`, a slice for local runs."""
    start = time.monotonic()
    manifest, is_new = write_slice(request.folder(name), request.slice, request.tokenizer)
    counts = ", ".join(
        f"{split} {n['problems']} problems, {n['correct']} + {n['incorrect']} solutions"
        for split, n in manifest["splits"].items()
    )
    state = f"written in {time.monotonic() - start:.1f} s" if is_new else "up to date"
    _say(f"{request.folder(manifest['dataset'])}: {state}: {counts}")


def stats(name: str, request: DatasetRequest) -> None:
    """`stats.json` and `stats.png`, and a table."""
    describe_dataset(request.folder(name))


def describe_dataset(folder: Path) -> None:
    """What a prepared dataset holds: `stats.json` and `stats.png`, if they are not up to date, and a table."""
    numbers, is_new = write_stats(folder)
    if is_drawn := (is_new or not (folder / PICTURE).is_file()) and can_draw():
        plot_stats(folder, numbers)
    if is_new or is_drawn:
        write_manifest(folder, require_manifest(folder))
    Console().print(stats_table(folder.name, numbers))
    if (folder / PICTURE).is_file():
        _say(f"{folder / PICTURE}")


def tests(name: str, request: DatasetRequest) -> None:
    """Execute solutions of the evaluation splits (of a user's own dataset: of all) in the sandbox, and compare with
    their labels."""
    folder = request.folder(name)
    manifest = require_manifest(folder)
    # Labels of a user's own problems are the user's word, in every split.
    splits = [split for split in manifest["splits"] if split != TRAIN or name not in NAMES]
    made_of = {
        "of": {split: split_checksums(manifest, split) for split in splits},
        "tests_per_split": request.tests_per_split,
    }
    there = json.loads((folder / TESTS_FILE).read_text()) if files_present(folder, manifest, [TESTS_FILE]) else {}
    if there.get("made_of") == made_of:
        found = {split: Agreement(**numbers) for split, numbers in there["splits"].items()}
    else:
        found = _execute(name, folder, manifest, splits, request)
        report = {"made_of": made_of, "splits": {split: asdict(agreement) for split, agreement in found.items()}}
        with atomic_file(folder / TESTS_FILE) as file:
            file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_manifest(folder, manifest)
    Console().print(agreement_table(name, found))
    for agreement in found.values():
        for line in agreement.disagreements[:EXAMPLES_SHOWN]:
            _say(f"  against its label: {line[:200]}")


def _execute(
    name: str, folder: Path, manifest: Manifest, splits: list[str], request: DatasetRequest
) -> dict[str, Agreement]:
    sizes = [manifest["splits"][split]["correct"] + manifest["splits"][split]["incorrect"] for split in splits]
    with progress(f"executing {name}", sum(min(n, request.tests_per_split) for n in sizes)) as advance:
        return {
            split: check_verdicts(folder / split, name, request.tests_per_split, request.workers, advance)
            for split in splits
        }


STEPS: dict[str, Callable[[str, DatasetRequest], None]] = {
    "process": process,
    "eval": evaluation,
    "metadata": metadata,
    "small": small,
    "stats": stats,
    "tests": tests,
}


def setup(names: tuple[str, ...], steps: tuple[str, ...], request: DatasetRequest, debug: bool = False) -> list[str]:
    """Run the steps on each dataset; a failure ends only its own dataset. Returns a line for every failure.

    Several datasets' training splits are compared with each other's evaluation splits, so these come first.
    """
    failures: dict[str, str] = {}
    first = [(name, "eval") for name in names if _is_compared(name)] if "process" in steps and len(names) > 1 else []
    for name, step in [*first, *((name, step) for name in names for step in steps)]:
        if name in failures:
            continue
        try:
            STEPS[step](name, request)
        except (UserError, OSError) as error:
            if debug:
                raise
            told = cannot_write(request.folder(name), error) if isinstance(error, OSError) else error
            failures[name] = f"{name}, {step}: {told}"
            if len(names) > 1:  # else the last line says it
                _say(f"  {failures[name]}")
    return list(failures.values())


def known(storage: Path) -> tuple[str, ...]:
    """The datasets there can be, and those of the user's own that are prepared."""
    own = (file.parent.name for file in sorted((storage / "datasets").glob("*/manifest.json")))
    return (*NAMES, *(name for name in own if name not in NAMES and not name.endswith(SMALL)))


def _is_compared(name: str) -> bool:
    """Whether a dataset is both: others are compared with it, and it is compared with others."""
    return name in DATASETS and DATASETS[name].is_benchmark and DATASETS[name].has_training


def _say(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
