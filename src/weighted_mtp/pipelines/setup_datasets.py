"""Datasets for training and evaluation: fetched or read from a folder, brought into one schema, indexed, described.

    uv run python scripts/create_storage/setup_datasets.py --datasets all --steps process,small
    uv run wmtp data --datasets mbpp,gsm8k --source DIR

Every step can be repeated: what exists with the same options and input is kept.
"""

import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from weighted_mtp.data.index import INDEX_FILE, write_index
from weighted_mtp.data.preparation.config import Options
from weighted_mtp.data.preparation.prepare import prepare
from weighted_mtp.data.preparation.registry import ALL, DATASETS, NAMES, TRAIN, own_dataset
from weighted_mtp.data.preparation.stats import write_stats
from weighted_mtp.data.preparation.subsets import write_slice
from weighted_mtp.data.prepared import require_manifest, split_checksums
from weighted_mtp.data.schema import SMALL
from weighted_mtp.data.sources.codecontests import LANGUAGES
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.check_labels import Agreement, check_verdicts
from weighted_mtp.extras import can_draw
from weighted_mtp.files import atomic_file, writing_to
from weighted_mtp.manifest import Manifest, files_present, write_manifest
from weighted_mtp.parallel import cores
from weighted_mtp.pipelines.command import chosen
from weighted_mtp.pipelines.config import DatasetsConfig
from weighted_mtp.progress import progress, say
from weighted_mtp.report.datasets import (
    EXAMPLES_SHOWN,
    PICTURE,
    account,
    agreement_table,
    counts_table,
    plot_stats,
    stats_table,
)
from weighted_mtp.sandbox.confinement import offered
from weighted_mtp.sandbox.reference import ReferenceRunner

TESTS_FILE = "tests.json"


def process(name: str, config: DatasetsConfig) -> None:
    """All splits, from upstream's files."""
    _prepare(name, config, only_evaluation=False)


def evaluation(name: str, config: DatasetsConfig) -> None:
    """Only the evaluation splits, if the dataset is not processed as a whole."""
    _prepare(name, config, only_evaluation=True)


def _prepare(name: str, config: DatasetsConfig, only_evaluation: bool) -> None:
    start = time.monotonic()
    with ReferenceRunner() as answers:
        manifest, is_new = prepare(
            name if config.imported is None else own_dataset(name, config.imported),
            config.storage,
            config.imported or config.source,
            _kept(config),
            only_evaluation,
            answers,
            config.workers,
        )
    if not is_new:
        print(f"{config.folder(name)}: up to date ({', '.join(manifest['splits'])})")
        return
    what = f"{name}, evaluation splits" if only_evaluation else name
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    seconds = time.monotonic() - start
    print(f"{what}: {manifest['rows_in']:,} rows in, {seconds:.1f} s, at most {peak:,} MB of memory in this process")
    Console().print(counts_table(manifest["splits"]))
    for line in account(manifest):
        print(f"  {line}")


def metadata(name: str, config: DatasetsConfig) -> None:
    """`index.parquet` of every split, and the manifest's checksums."""
    folder = config.folder(name)
    manifest = require_manifest(folder)
    wanted, splits = {"tokenizer": config.tokenizer}, manifest["splits"]
    if manifest.get("index") == wanted and files_present(
        folder, manifest, [f"{split}/{INDEX_FILE}" for split in splits]
    ):
        print(f"{folder}: index up to date")
        return
    total = sum(counts["correct"] + counts["incorrect"] for counts in splits.values())
    with progress(f"indexing {name}", total) as advance:
        for split in splits:
            write_index(folder / split, config.tokenizer, advance)
    write_manifest(folder, {**manifest, "index": wanted})
    print(f"{folder}: index of {total:,} solutions, lengths in {config.tokenizer or 'characters'}")


def small(name: str, config: DatasetsConfig) -> None:
    """`<name>-small`, a slice for local runs."""
    start = time.monotonic()
    manifest, is_new = write_slice(config.folder(name), config.small, config.tokenizer)
    counts = ", ".join(
        f"{split} {n['problems']} problems, {n['correct']} + {n['incorrect']} solutions"
        for split, n in manifest["splits"].items()
    )
    state = f"written in {time.monotonic() - start:.1f} s" if is_new else "up to date"
    print(f"{config.folder(manifest['dataset'])}: {state}: {counts}")


def stats(name: str, config: DatasetsConfig) -> None:
    """`stats.json` and `stats.png`, and a table."""
    describe_dataset(config.folder(name))


def describe_dataset(folder: Path) -> None:
    """What a prepared dataset holds: `stats.json` and `stats.png`, if they are not up to date, and a table."""
    numbers, is_new = write_stats(folder)
    if is_drawn := (is_new or not (folder / PICTURE).is_file()) and can_draw():
        plot_stats(folder, numbers)
    if is_new or is_drawn:
        write_manifest(folder, require_manifest(folder))
    Console().print(stats_table(folder.name, numbers))
    if (folder / PICTURE).is_file():
        print(f"{folder / PICTURE}")


def tests(name: str, config: DatasetsConfig) -> None:
    """Execute solutions of the evaluation splits (of a user's own dataset: of all) in the sandbox, and compare with
    their labels."""
    folder = config.folder(name)
    manifest = require_manifest(folder)
    # Labels of a user's own problems are the user's word, in every split.
    splits = [split for split in manifest["splits"] if split != TRAIN or name not in NAMES]
    made_of = {
        "of": {split: split_checksums(manifest, split) for split in splits},
        "tests_per_split": config.tests_per_split,
    }
    there = json.loads((folder / TESTS_FILE).read_text()) if files_present(folder, manifest, [TESTS_FILE]) else {}
    if there.get("made_of") == made_of:
        found = {split: Agreement(**numbers) for split, numbers in there["splits"].items()}
    else:
        found = _execute(name, folder, manifest, splits, config)
        report = {"made_of": made_of, "splits": {split: asdict(agreement) for split, agreement in found.items()}}
        with atomic_file(folder / TESTS_FILE) as file:
            file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_manifest(folder, manifest)
    Console().print(agreement_table(name, found))
    for agreement in found.values():
        for line in agreement.disagreements[:EXAMPLES_SHOWN]:
            print(f"  against its label: {line[:200]}")
    if name not in NAMES and any(agreement.disagreements for agreement in found.values()):
        print("  a critic learns from labels: fix these programs, labels or tests, and import again")


def _execute(
    name: str, folder: Path, manifest: Manifest, splits: list[str], config: DatasetsConfig
) -> dict[str, Agreement]:
    sizes = [manifest["splits"][split]["correct"] + manifest["splits"][split]["incorrect"] for split in splits]
    with progress(f"executing {name}", sum(min(n, config.tests_per_split) for n in sizes)) as advance:
        return {
            split: check_verdicts(folder / split, name, config.tests_per_split, config.workers or cores(), advance)
            for split in splits
        }


STEPS: dict[str, Callable[[str, DatasetsConfig], None]] = {
    "process": process,
    "eval": evaluation,
    "metadata": metadata,
    "small": small,
    "stats": stats,
    "tests": tests,
}


def setup(config: DatasetsConfig) -> list[str]:
    """Run the steps on each dataset; among several a failure ends only its own. Returns a line for every failure.

    Several datasets' training splits are compared with each other's evaluation splits, so these come first.

    Raises UserError for an unknown dataset, step or language, for a name that an import cannot have, and if the only
    dataset fails.
    """
    names, steps = _datasets(config), _steps(config)
    _kept(config)
    failures: dict[str, str] = {}
    first = [(name, "eval") for name in names if _is_compared(name)] if "process" in steps and len(names) > 1 else []
    for name, step in [*first, *((name, step) for name in names for step in steps)]:
        if name in failures:
            continue
        try:
            with writing_to(config.folder(name)):
                STEPS[step](name, config)
        except UserError as error:
            failures[name] = f"{name}, {step}: {error}"
            if len(names) == 1:
                raise UserError(failures[name]) from error
            print(f"  {failures[name]}")
    return list(failures.values())


def _datasets(config: DatasetsConfig) -> tuple[str, ...]:
    if config.imported is not None:
        return (own_dataset(str(config.name), config.imported).name,)
    own = (file.parent.name for file in sorted((config.storage / "datasets").glob("*/manifest.json")))
    known = (*NAMES, *(name for name in own if name not in NAMES and not name.endswith(SMALL)))
    asked = [name for each in config.datasets or () for name in (ALL if each == "all" else [each])]
    return chosen("--datasets", asked, known)


def _steps(config: DatasetsConfig) -> tuple[str, ...]:
    """The steps; of an import that does not name any also the one that executes its programs, if this machine can."""
    tested = config.imported is not None and "steps" not in config.model_fields_set
    if tested and not offered().is_enough:
        say(f"programs are not executed to check their labels: {offered()} do not isolate them well enough")
        tested = False
    return chosen("--steps", [*config.steps, *(["tests"] if tested else [])], tuple(STEPS))


def _kept(config: DatasetsConfig) -> Options:
    languages = chosen("--languages", config.keep.languages, LANGUAGES)
    return config.keep.model_copy(update={"languages": languages})


def _is_compared(name: str) -> bool:
    """Whether a dataset is both: others are compared with it, and it is compared with others."""
    return name in DATASETS and DATASETS[name].is_benchmark and DATASETS[name].has_training
