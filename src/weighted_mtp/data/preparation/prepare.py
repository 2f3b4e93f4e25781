"""From upstream's own files to `<root>/<dataset>/<split>/`; the embedded micro benchmark needs no file.

Workers read the files in pieces, one problem in memory at a time, and their parts are merged in the files' order, so
that the result is the same whatever the number of workers. Evaluation splits are written first, so that the training
split can be compared with them; what it shares with them, or with other benchmarks, is left out.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from weighted_mtp.data.preparation.config import Options
from weighted_mtp.data.preparation.decontaminate import ContaminationCheck
from weighted_mtp.data.preparation.registry import DATASETS, MICRO, TRAIN, Dataset, Split, dataset_named, find_files
from weighted_mtp.data.preparation.shards import (
    ProblemRecord,
    Shard,
    ShardTask,
    SplitMerger,
    read_account,
    read_shard,
    save_check,
    shards_of,
)
from weighted_mtp.data.prepared import has_splits, split_checksums
from weighted_mtp.data.schema import Counts
from weighted_mtp.data.sources.micro.dataset import is_current, write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.data.sources.rows import Answers
from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_directory, atomic_file, sha256, writing_to
from weighted_mtp.hub import fetch
from weighted_mtp.manifest import Manifest, made_from, read_manifest, write_manifest
from weighted_mtp.parallel import cores, in_order
from weighted_mtp.progress import progress

_VERSION = 1  # of this code: raise it with any change that changes what the same input gives
_BYTES_A_WORKER = 4 << 20  # of input at least: a process takes a second to start, and as long for these
_JOB = "job.json"  # beside parts: what they are made for


@dataclass(frozen=True)
class Upstream:
    """A dataset's files, and how the manifest names them: hub revision, or checksums."""

    files: dict[Split, list[Path]]
    description: dict[str, Any]


def prepare(
    which: str | Dataset,
    storage: Path,
    source: Path | None = None,
    options: Options | None = None,
    only_evaluation: bool = False,
    answers: Answers | None = None,
    workers: int | None = None,
) -> tuple[Manifest, bool]:
    """Write one dataset to `storage/datasets/<name>`; returns its manifest, and whether anything had to be done.

    which            its name, or a user's own (`registry.own_dataset`)
    source           folder with upstream's files; None for the hub, or for `micro`, which is generated
    only_evaluation  leave the training split out; a dataset that holds all of its splits stays as it is
    answers          executes references; humaneval+ and mbpp+ come without expected values
    workers          processes that read at once; None for as many as there are cores

    The same options and input are not processed again; without a source, whatever is there with the same options
    counts as current, so that no network is needed. Another evaluation set in storage is another input.

    Raises `UserError` for an unknown dataset, a missing source, whatever its reader refuses, and a full disk.
    """
    root = storage / "datasets"
    if which == MICRO:
        current = is_current(root / MICRO, MicroConfig())
        folder = root / MICRO if current else prepare_micro(root)
        return read_manifest(folder) or {}, not current
    dataset = which if isinstance(which, Dataset) else dataset_named(which)
    name = dataset.name
    compared = {} if only_evaluation or not dataset.has_training else _evaluation_sets(root, dataset)
    wanted = {
        "dataset": name,
        "version": _VERSION,
        "options": (options or Options()).model_dump(mode="json"),
        "only_evaluation": only_evaluation,
        "compared_with": compared,
    }
    there = read_manifest(root / name) or {}
    if "evaluations" in there:
        raise UserError(f"{root / name} holds a policy's own programs (`wmtp label`): choose another name")
    if not has_splits(root / name, there):
        there = {}
    if only_evaluation and there.get("only_evaluation") is False:
        return there, False
    if source is None and made_from(there, wanted):
        return there, False
    upstream = _from_folder(dataset, source) if source else _from_hub(dataset, storage, only_evaluation)
    wanted["source"] = upstream.description
    if made_from(there, wanted):
        return there, False
    return _write(dataset, root, upstream, options or Options(), wanted, answers, workers or cores()), True


def prepare_micro(root: Path) -> Path:
    """Generate the micro benchmark, unless it is there with the same configuration already."""
    config = MicroConfig()
    total = config.n_train + config.n_validation + config.n_test + config.n_test_pairs
    with progress("generating the micro benchmark", total) as advance:
        return write_micro(root, config, advance)


def prepare_embedded(*datasets: str, root: Path) -> None:
    """Generate the embedded one of `datasets` if it is missing; leave any other, and a generated one, untouched.

    Of several processes that start at once one generates it, and the others wait.
    """
    if MICRO in datasets and not (root / MICRO / "manifest.json").exists():
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{MICRO}.lock"):
            prepare_micro(root)


def prepare_benchmark(name: str, root: Path) -> None:
    """Have a benchmark's evaluation splits in `root`, a storage's `datasets`: generated, or fetched from the hub.

    What is there, in part or as a whole, is left alone, and so is what comes from a folder of the user's only. Of
    several processes that start at once one prepares it, and the others wait. Raises UserError as `prepare`.
    """
    prepare_embedded(name, root=root)
    dataset = DATASETS.get(name)
    if dataset is None or dataset.hub_files is None or root.name != "datasets" or (root / name).exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{name}.lock"):
        if (root / name).exists():
            return
        try:
            prepare(name, root.parent, only_evaluation=True)
        except UserError as error:
            raise UserError(f"{error}, to `wmtp data --datasets {name}`") from error


def _evaluation_sets(root: Path, dataset: Dataset) -> dict[str, list[str]]:
    """The other benchmarks' prepared evaluation splits, "humaneval/test" → checksums."""
    found = {}
    for other in DATASETS.values():
        manifest = (read_manifest(root / other.name) if other.is_benchmark and other != dataset else None) or {}
        for split in manifest.get("splits", ()):
            if split != TRAIN:
                found[f"{other.name}/{split}"] = split_checksums(manifest, split)
    return found


def _from_folder(dataset: Dataset, source: Path) -> Upstream:
    files = find_files(dataset, source)
    paths = [path for group in files.values() for path in group]
    with ThreadPoolExecutor(cores()) as threads:
        sums = list(threads.map(sha256, paths))
    described = {
        path.name: {"sha256": checksum, "bytes": path.stat().st_size}
        for path, checksum in zip(paths, sums, strict=True)
    }
    return Upstream(files, {"files": described})


def _from_hub(dataset: Dataset, storage: Path, only_evaluation: bool) -> Upstream:
    if dataset.hub_files is None:
        raise UserError(f"{dataset.name} is not on the hub: give --source DIR with {dataset.file_names()}")
    layout = {split: names for split, names in dataset.hub_files.items() if split != TRAIN or not only_evaluation}
    fetched = fetch(
        dataset.hub,
        "dataset",
        patterns=[name for names in layout.values() for name in names],
        to=storage / "downloads" / "datasets" / dataset.name,
        instead=f"give --source DIR with {dataset.file_names()}",
    )
    files = {split: sorted(path for name in names for path in fetched.folder.glob(name))
             for split, names in layout.items()}  # fmt: skip
    return Upstream(files, {"hub": dataset.hub, "revision": fetched.revision})


def _write(
    dataset: Dataset,
    root: Path,
    upstream: Upstream,
    options: Options,
    wanted: Manifest,
    answers: Answers | None,
    workers: int,
) -> Manifest:
    folder = root / dataset.name
    evaluated = [(s, path) for s, paths in upstream.files.items() if s != TRAIN for path in paths]
    trained = [(s, path) for s, paths in upstream.files.items() if s in (TRAIN, None) for path in paths]
    with writing_to(folder), _parts_of(folder, wanted) as parts, atomic_directory(folder) as partial:
        passes = [shards_of(evaluated, parts / "evaluation")]
        if dataset.has_training and not wanted["only_evaluation"]:
            passes.append(shards_of(trained, parts / "training"))
        size = sum(shard.bytes for shards in passes for shard in shards)
        workers = 1 if dataset.executes else max(1, min(workers, size // _BYTES_A_WORKER))
        with progress(f"preparing {dataset.name}, KiB", size >> 10) as advance:
            merging = _Merging(dataset, partial, options, workers, _in_kib(advance), answers)
            merging.take(passes[0], None)
            for shards in passes[1:]:
                check = parts / "check"
                if not check.exists():
                    own = [partial / split for split in merging.counts]
                    save_check(ContaminationCheck.of([*own, *(root / s for s in wanted["compared_with"])]), check)
                merging.take(shards, check)
        if not merging.counts:
            raise UserError(f"{dataset.name}: no problem is left: {dict(merging.dropped)}; choose other options")
        return write_manifest(partial, {**wanted, **merging.report(wanted["compared_with"])})


@contextmanager
def _parts_of(folder: Path, wanted: Manifest) -> Iterator[Path]:
    """A folder for what is finished of a preparation; a kill or Ctrl-C leaves it for the next run of the same one."""
    parts = folder.with_name(f".{folder.name}.parts")
    job = json.dumps(wanted, sort_keys=True)
    if not (parts / _JOB).exists() or (parts / _JOB).read_text() != job:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        with atomic_file(parts / _JOB) as partial:
            partial.write_text(job)
    try:
        yield parts
    except Exception:
        shutil.rmtree(parts, ignore_errors=True)
        raise
    shutil.rmtree(parts)


def _in_kib(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Bytes, told in pieces → KiB, told when whole."""
    total = 0

    def on_bytes(n: int) -> None:
        nonlocal total
        advance((total + n >> 10) - (total >> 10))
        total += n

    return on_bytes


class _Merging:
    """Pieces' parts, one after another, → splits, with an account of every row and solution."""

    def __init__(
        self,
        dataset: Dataset,
        folder: Path,
        options: Options,
        workers: int,
        on_bytes: Callable[[int], None],
        answers: Answers | None,
    ) -> None:
        self.dataset, self.folder, self.options = dataset, folder, options
        self.workers, self.on_bytes, self.answers = workers, on_bytes, answers
        self.counts: dict[str, Counts] = {}
        self.dropped: Counter[str] = Counter()
        self.rows = 0
        self.overlaps: list[dict[str, str]] = []
        self._homes: dict[str, str] = {}  # problem → the split it was read in

    def take(self, shards: list[Shard], check: Path | None) -> None:
        """Write what `shards` hold of the training split, if a check is given, or else of all the others."""
        job = ShardTask(self.dataset, self.options, check)
        alone = self.workers == 1  # then progress is reported row by row, and references can be executed
        read = partial(read_shard, job=job)
        if alone:
            read = partial(read, on_bytes=self.on_bytes, answers=self.answers)
        wanted = (shard for shard in shards if not self._is_full(shard.split))
        with ExitStack() as stack, closing(in_order(read, wanted, self.workers)) as parts:
            mergers: dict[str, SplitMerger] = {}
            for shard in parts:
                for split, counts in self._account(shard).items():
                    if split not in mergers:
                        mergers[split] = stack.enter_context(SplitMerger(self.folder / split))
                    mergers[split].add(shard.part / split, counts)
                if not alone:
                    self.on_bytes(shard.bytes)

    def report(self, compared_with: dict[str, list[str]]) -> Manifest:
        """The account, as the manifest keeps it."""
        own = [f"{self.dataset.name}/{split}" for split in self.counts if split != TRAIN]
        present = {name.split("/")[0] for name in (*compared_with, *own)}
        return {
            "rows_in": self.rows,
            "splits": self.counts,
            "dropped": dict(sorted(self.dropped.items())),
            "contamination": {
                "checked": [*own, *compared_with] if TRAIN in self.counts else [],
                "not_prepared": [d.name for d in DATASETS.values() if d.is_benchmark and d.name not in present],
                "kept": self.options.keep_contaminated,
                "overlaps": self.overlaps,
            },
        }

    def _account(self, shard: Shard) -> dict[str, Counts]:
        """How much of each split of a part is kept: all, or as much as `max_problems` still allows."""
        kept: dict[str, Counts] = {}
        for record in read_account(shard):
            if self._is_full(record.split):
                continue
            self._enter(record)
            if not record.left_out:
                for counts in (self.counts, kept):
                    counted = counts.setdefault(record.split, dict.fromkeys(("problems", "correct", "incorrect"), 0))
                    for name, n in zip(counted, (1, *record.solutions), strict=True):
                        counted[name] += n
        return kept

    def _is_full(self, split: Split) -> bool:
        most = self.options.max_problems
        return most is not None and split in self.counts and self.counts[split]["problems"] >= most

    def _enter(self, record: ProblemRecord) -> None:
        name = record.problem_id
        if name in self._homes:
            raise UserError(f"{record.where}: problem {name!r} is also at {self._homes[name]}; remove one of them")
        self._homes[name] = record.where
        self.rows += 1
        self.dropped.update(record.dropped)
        if record.overlap is not None:
            self.overlaps.append(record.overlap)
        if record.left_out:
            self.dropped[record.left_out] += 1
            if any(record.solutions):
                self.dropped["solution of a problem left out"] += sum(record.solutions)
