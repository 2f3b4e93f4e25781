"""Upstream's files in pieces that workers read side by side: rows → a part of each split, and an account of every row.

A shard is a file, or a row group of a Parquet file, so that what is made of it depends only on the input: whoever
reads it, and in whatever order, the parts are the same. A part is there whole or not at all, and is not made twice.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import joblib
import pyarrow.parquet as pq

from weighted_mtp.data.preparation.config import Options
from weighted_mtp.data.preparation.decontaminate import ContaminationCheck
from weighted_mtp.data.preparation.registry import TRAIN, Dataset, Split
from weighted_mtp.data.schema import PROBLEM_SCHEMA, SOLUTION_SCHEMA, Counts, Entry
from weighted_mtp.data.sources.rows import Answers, OnBytes, Reading, row_groups
from weighted_mtp.data.tables import COMPRESSION, PROBLEMS_FILE, SOLUTIONS_FILE, SplitWriter
from weighted_mtp.files import atomic_directory, atomic_file

_ACCOUNT = "account.json"


@dataclass(frozen=True)
class Shard:
    """What one worker reads at a time; `bytes` add up to the files'."""

    path: Path
    split: Split  # that all of it belongs to
    group: int | None
    bytes: int
    part: Path  # folder of what is made of it


@dataclass(frozen=True)
class ProblemRecord:
    """What became of one problem.

    solutions  [correct, incorrect] that were not dropped
    dropped    of its solutions: reason → how many
    left_out   why it is left out as a whole; "" if it is not
    overlap    what it shares with an evaluation set, as the manifest keeps it
    """

    problem_id: str
    where: str
    split: str
    solutions: tuple[int, int]
    dropped: dict[str, int]
    left_out: str = ""
    overlap: dict[str, str] | None = None


@dataclass(frozen=True)
class ShardTask:
    """What is done with every piece of a pass over the files.

    check  file of the `ContaminationCheck` that training problems are compared with (`save_check`); None for a pass
           over evaluation problems, which stay, whatever is left of their solutions
    """

    dataset: Dataset
    options: Options
    check: Path | None


def shards_of(files: Sequence[tuple[Split, Path]], parts: Path) -> list[Shard]:
    """The shards of files in their order. Raises UserError if a file cannot be read."""
    shards: list[Shard] = []
    for split, path in files:
        groups, size = row_groups(path), path.stat().st_size
        for i, group in enumerate(groups):
            share = size * (i + 1) // len(groups) - size * i // len(groups)
            shards.append(Shard(path, split, group, share, parts / f"{len(shards):06}"))
    return shards


def save_check(check: ContaminationCheck, path: Path) -> None:
    """Write a check where workers find it, whose arrays they share in memory. Raises OSError."""
    with atomic_file(path) as partial:
        joblib.dump(check, partial)


@functools.lru_cache(maxsize=1)
def _saved_check(path: Path, _written: int) -> ContaminationCheck:
    check = joblib.load(path, mmap_mode="r")
    assert isinstance(check, ContaminationCheck)
    return check


def read_shard(shard: Shard, job: ShardTask, on_bytes: OnBytes | None = None, answers: Answers | None = None) -> Shard:
    """Write what a piece holds of the job's splits to `shard.part`, unless it is there already; returns the piece.

    on_bytes  is called with the number of bytes of the shard as they are read
    answers   as `Reading`

    Raises UserError as the dataset's reader, and OSError if nothing can be written.
    """
    if shard.part.exists():
        if on_bytes is not None:
            on_bytes(shard.bytes)
        return shard
    check = _saved_check(job.check, job.check.stat().st_mtime_ns) if job.check is not None else None
    with atomic_directory(shard.part) as folder:
        with ExitStack() as stack:
            writers: dict[str, SplitWriter] = {}
            records = []
            for entry in _entries(shard, job, writers, on_bytes, answers):
                record = _record(entry, job.options, check)
                records.append(record)
                if not record.left_out:
                    split = entry.problem.split
                    if split not in writers:
                        writers[split] = stack.enter_context(SplitWriter(folder / split))
                    writers[split].add(entry.problem, entry.solutions)
        (folder / _ACCOUNT).write_text(json.dumps([asdict(record) for record in records]))
    return shard


def read_account(shard: Shard) -> list[ProblemRecord]:
    """What became of the problems of a piece that was read, in their order."""
    return [ProblemRecord(**values) for values in json.loads((shard.part / _ACCOUNT).read_text())]


class SplitMerger:
    """Writes a split's two files out of those of its parts, a row group in memory at a time; a context manager.

    Raises OSError if they cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self._writers = {
                name: stack.enter_context(pq.ParquetWriter(folder / name, schema, compression=COMPRESSION))
                for name, schema in ((PROBLEMS_FILE, PROBLEM_SCHEMA), (SOLUTIONS_FILE, SOLUTION_SCHEMA))
            }
            self._open = stack.pop_all()

    def __enter__(self) -> "SplitMerger":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.__exit__(kind, error, trace)

    def add(self, part: Path, counts: Counts) -> None:
        """Append a part's first problems and solutions, as many as `counts` says."""
        rows = {PROBLEMS_FILE: counts["problems"], SOLUTIONS_FILE: counts["correct"] + counts["incorrect"]}
        for name, left in rows.items():
            with pq.ParquetFile(part / name) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group).slice(0, left)
                    left -= len(table)
                    if len(table):
                        self._writers[name].write_table(table)


def _entries(
    shard: Shard, job: ShardTask, writers: dict[str, SplitWriter], on_bytes: OnBytes | None, answers: Answers | None
) -> Iterator[Entry]:
    """What the shard holds of the training split, or else of all others, until it fills `max_problems` by itself."""
    options, dataset = job.options, job.dataset
    reading = Reading(
        dataset.name, shard.split, options.languages, options.max_solution_characters, on_bytes, shard.group, answers
    )
    for entry in dataset.read(shard.path, reading):
        split = entry.problem.split
        if (split == TRAIN) is not (job.check is not None):
            continue
        if split in writers and writers[split].counts["problems"] == options.max_problems:
            if shard.split is not None:
                break
            continue
        yield entry


def _record(entry: Entry, options: Options, check: ContaminationCheck | None) -> ProblemRecord:
    """Training problems need a solution, and no overlap with an evaluation set."""
    problem, solutions = entry.problem, entry.solutions
    left_out, overlap = entry.left_out, None
    if check is not None and not left_out and not solutions:
        left_out = "problem without a solution left"
    elif check is not None and not left_out and (found := check.find(problem, solutions)) is not None:
        overlap = {"problem_id": problem.problem_id, "with": found.problem_id, "kind": found.kind, "text": found.text}
        if not options.keep_contaminated:
            left_out = "problem that overlaps an evaluation set"
    verdicts = Counter(solution.is_correct for solution in solutions)
    return ProblemRecord(
        problem.problem_id,
        entry.where,
        problem.split,
        (verdicts[True], verdicts[False]),
        dict(entry.dropped),
        left_out,
        overlap,
    )
