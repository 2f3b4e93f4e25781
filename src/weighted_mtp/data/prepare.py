"""From upstream's own files to `<root>/<dataset>/<split>/`; the embedded micro benchmark needs no file.

Rows stream from reader to writer, one problem in memory at a time. Evaluation splits are written first, so that the
training split can be compared with them; what it shares with them, or with other benchmarks, is left out.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weighted_mtp.data.decontaminate import ContaminationCheck
from weighted_mtp.data.manifest import has_splits, split_checksums
from weighted_mtp.data.registry import DATASETS, MICRO, TRAIN, Dataset, Split, dataset_named, find_files
from weighted_mtp.data.schema import Counts, Entry, SplitWriter, cannot_write
from weighted_mtp.data.sources.micro.dataset import is_current, write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.data.sources.rows import Answers, Reading
from weighted_mtp.errors import UserError
from weighted_mtp.files import sha256, whole_directory
from weighted_mtp.hub import fetch
from weighted_mtp.manifest import Manifest, read_manifest, write_manifest
from weighted_mtp.progress import progress

_VERSION = 1  # of this code: raise it with any change that changes what the same input gives


@dataclass(frozen=True)
class Options:
    """What is kept of a dataset.

    languages                of CodeContests-like solutions
    max_problems             only the first of each split, for a quick look; None for all
    max_solution_characters  longer solutions are dropped
    keep_contaminated        training problems that overlap an evaluation set are reported, but stay
    """

    languages: tuple[str, ...] = ("python3",)
    max_problems: int | None = None
    max_solution_characters: int = 100_000
    keep_contaminated: bool = False


@dataclass(frozen=True)
class Upstream:
    """A dataset's files, and how the manifest names them: hub revision, or checksums."""

    files: dict[Split, list[Path]]
    description: dict[str, Any]


def prepare(
    name: str,
    storage: Path,
    source: Path | None = None,
    options: Options | None = None,
    only_evaluation: bool = False,
    answers: Answers | None = None,
) -> tuple[Manifest, bool]:
    """Write one dataset to `storage/datasets/<name>`; returns its manifest, and whether anything had to be done.

    source           folder with upstream's files; None for the hub, or for `micro`, which is generated
    only_evaluation  leave the training split out; a dataset that holds all of its splits stays as it is
    answers          executes references; humaneval+ and mbpp+ come without expected values

    The same options and input are not processed again; without a source, whatever is there with the same options
    counts as current, so that no network is needed. Another evaluation set in storage is another input.

    Raises `UserError` for an unknown dataset, a missing source, whatever its reader refuses, and a full disk.
    """
    root = storage / "datasets"
    if name == MICRO:
        current = is_current(root / MICRO, MicroConfig())
        folder = root / MICRO if current else prepare_micro(root)
        return read_manifest(folder) or {}, not current
    dataset = dataset_named(name)
    compared = {} if only_evaluation or not dataset.has_training else _evaluation_sets(root, dataset)
    wanted = {
        "dataset": name,
        "version": _VERSION,
        "options": {**asdict(options or Options()), "languages": list((options or Options()).languages)},
        "only_evaluation": only_evaluation,
        "compared_with": compared,
    }
    there = read_manifest(root / name) or {}
    if not has_splits(root / name, there):
        there = {}
    if only_evaluation and there.get("only_evaluation") is False:
        return there, False
    if source is None and _holds(there, wanted):
        return there, False
    upstream = _from_folder(dataset, source) if source else _from_hub(dataset, storage, only_evaluation)
    wanted["source"] = upstream.description
    if _holds(there, wanted):
        return there, False
    return _write(dataset, root, upstream, options or Options(), wanted, answers), True


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


def _holds(manifest: Manifest, wanted: Manifest) -> bool:
    return all(manifest.get(key) == value for key, value in wanted.items())


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
    described = {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size} for paths in files.values() for path in paths
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
    dataset: Dataset, root: Path, upstream: Upstream, options: Options, wanted: Manifest, answers: Answers | None
) -> Manifest:
    folder = root / dataset.name
    try:
        with whole_directory(folder) as partial:
            copying = _Copying(dataset, partial, options, answers)
            passes = [[(s, p) for s, p in upstream.files.items() if s != TRAIN]]
            if dataset.has_training and not wanted["only_evaluation"]:
                passes.append([(s, p) for s, p in upstream.files.items() if s in (TRAIN, None)])
            size = sum(path.stat().st_size for files in passes for _, paths in files for path in paths)
            with progress(f"preparing {dataset.name}, KiB", size >> 10) as advance:
                copying.on_bytes = _in_kib(advance)
                copying.copy(passes[0], None)
                for files in passes[1:]:
                    own = [partial / split for split in copying.counts]
                    copying.copy(files, ContaminationCheck.of([*own, *(root / s for s in wanted["compared_with"])]))
            if not copying.counts:
                raise UserError(f"{dataset.name}: no problem is left: {dict(copying.dropped)}; choose other options")
            return write_manifest(partial, {**wanted, **copying.report(wanted["compared_with"])})
    except OSError as error:
        raise cannot_write(folder, error) from error


def _in_kib(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Bytes, told in pieces → KiB, told when whole."""
    total = 0

    def on_bytes(n: int) -> None:
        nonlocal total
        advance((total + n >> 10) - (total >> 10))
        total += n

    return on_bytes


class _Copying:
    """Entries of upstream's files → split writers, with an account of every row and solution."""

    def __init__(self, dataset: Dataset, folder: Path, options: Options, answers: Answers | None) -> None:
        self.dataset, self.folder, self.options, self.answers = dataset, folder, options, answers
        self.counts: dict[str, Counts] = {}
        self.dropped: Counter[str] = Counter()
        self.rows = 0
        self.overlaps: list[dict[str, str]] = []
        self.on_bytes: Callable[[int], None] | None = None
        self._homes: dict[str, str] = {}  # problem → where it was read

    def copy(self, files: list[tuple[Split, list[Path]]], check: ContaminationCheck | None) -> None:
        """Write what `files` hold of the training split, where a check is given, or else of all the others.

        Evaluation problems stay, whatever is left of their solutions; training problems need one, and no overlap.
        """
        with ExitStack() as stack:
            writers: dict[str, SplitWriter] = {}
            for entry in self._entries(files, training=check is not None):
                if check is not None and not entry.solutions:
                    self._leave_out(entry, "problem without a solution left")
                elif check is not None and self._overlaps(entry, check):
                    self._leave_out(entry, "problem that overlaps an evaluation set")
                else:
                    split = entry.problem.split
                    if split not in writers:
                        writers[split] = stack.enter_context(SplitWriter(self.folder / split))
                        self.counts[split] = writers[split].counts
                    writers[split].add(entry.problem, entry.solutions)

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

    def _entries(self, files: list[tuple[Split, list[Path]]], training: bool) -> Iterator[Entry]:
        """What the files hold of the training split, or of all others, as far as it is not left out."""
        options = self.options
        for split, paths in files:
            reading = Reading(
                self.dataset.name,
                split,
                options.languages,
                options.max_solution_characters,
                self.on_bytes,
                self.answers,
            )
            for path in paths:
                for entry in self.dataset.read(path, reading):
                    if (entry.problem.split == TRAIN) is not training:
                        continue
                    if self._is_full(entry.problem.split):
                        if split is not None:
                            break
                        continue
                    self._enter(entry)
                    if entry.left_out:
                        self._leave_out(entry, entry.left_out)
                    else:
                        yield entry

    def _is_full(self, split: str) -> bool:
        most = self.options.max_problems
        return most is not None and split in self.counts and self.counts[split]["problems"] >= most

    def _enter(self, entry: Entry) -> None:
        name = entry.problem.problem_id
        if name in self._homes:
            raise UserError(f"{entry.where}: problem {name!r} is also at {self._homes[name]}; remove one of them")
        self._homes[name] = entry.where
        self.rows += 1
        self.dropped.update(entry.dropped)

    def _leave_out(self, entry: Entry, reason: str) -> None:
        self.dropped[reason] += 1
        if entry.solutions:
            self.dropped["solution of a problem left out"] += len(entry.solutions)

    def _overlaps(self, entry: Entry, check: ContaminationCheck) -> bool:
        """Note an overlap with an evaluation set; whether the problem is to go for it."""
        found = check.find(entry.problem, entry.solutions)
        if found is not None:
            self.overlaps.append({"problem_id": entry.problem.problem_id, "with": found.problem_id, "kind": found.kind,
                                  "text": found.text})  # fmt: skip
        return found is not None and not self.options.keep_contaminated
