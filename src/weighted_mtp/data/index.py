"""`index.parquet`: of every solution its problem, verdict and length, so that sampling reads no program.

Ten bytes a solution instead of kilobytes: choosing pairs among millions reads some 30 MB. Row i of the index is row i
of `solutions.parquet`.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from weighted_mtp.data.schema import PROBLEM_SCHEMA, SMALL, SOLUTION_SCHEMA
from weighted_mtp.data.tables import PROBLEMS_FILE, SOLUTIONS_FILE, opened_table, prepare_command
from weighted_mtp.errors import UserError, first_line
from weighted_mtp.files import atomic_file, writing_to
from weighted_mtp.hub import fetch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INDEX_FILE = "index.parquet"
UNKNOWN = -1
"""Difficulty or rating of a problem whose source gives none."""

_BATCH = 4_096  # programs in memory at a time
_TOKENIZER_FILES = ("config.json", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt")
_METADATA = b"weighted_mtp"
_SCHEMA = pa.schema(
    [
        pa.field("problem", pa.int32(), nullable=False),
        pa.field("is_correct", pa.bool_(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class SolutionIndex:
    """N solutions of P problems, in the order of their files."""

    problem: NDArray[np.int32]  # (N,) row of problems.parquet; never falls
    is_correct: NDArray[np.bool_]  # (N,)
    length: NDArray[np.int32]  # (N,) in `unit`, without EOS
    difficulty: NDArray[np.int32]  # (P,) on the source's own scale, or UNKNOWN
    rating: NDArray[np.int32]  # (P,) Codeforces rating, or UNKNOWN
    unit: str  # "characters", or "tokens of <tokenizer>"

    def __len__(self) -> int:
        return len(self.problem)


def write_index(
    split_dir: Path, tokenizer: str | Path | None = None, on_progress: Callable[[int], None] | None = None
) -> Path:
    """Write `index.parquet` of a split beside its two files, a few thousand programs at a time; returns its path.

    tokenizer    folder or hub id of the tokenizer that lengths are counted with; None counts characters
    on_progress  is called with the number of solutions read

    Raises UserError for a missing or damaged file, a solution without its problem, a tokenizer that cannot be fetched
    or read, and a place that cannot be written.
    """
    length_of = _lengths_by(_load(tokenizer)) if tokenizer is not None else pc.utf8_length
    with opened_table(split_dir / PROBLEMS_FILE, PROBLEM_SCHEMA) as file:
        ids = file.read(columns=["problem_id"])["problem_id"]
    batches = [pa.RecordBatch.from_pylist([], schema=_SCHEMA)]
    with opened_table(split_dir / SOLUTIONS_FILE, SOLUTION_SCHEMA) as file:
        for batch in file.iter_batches(_BATCH, columns=["problem_id", "is_correct", "code"]):
            problem = pc.index_in(batch["problem_id"], value_set=ids)
            if problem.null_count:
                stray = batch["problem_id"].filter(pc.is_null(problem))[0]
                raise UserError(f"{split_dir / SOLUTIONS_FILE}: problem {str(stray)!r} is not in {PROBLEMS_FILE}")
            columns = [problem, batch["is_correct"], pc.cast(length_of(batch["code"]), pa.int32())]
            batches.append(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))
            if on_progress is not None:
                on_progress(batch.num_rows)
    index = pa.Table.from_batches(batches)
    if np.any(np.diff(index["problem"].to_numpy()) < 0):
        raise UserError(
            f"{split_dir / SOLUTIONS_FILE}: its solutions are not in the order of {PROBLEMS_FILE}: "
            f"delete both and make them again with `{prepare_command(split_dir.parent.name)}`"
        )
    unit = "characters" if tokenizer is None else f"tokens of {tokenizer}"
    metadata = {_METADATA: json.dumps({"unit": unit, "made_of": _fingerprint(split_dir)})}
    path = split_dir / INDEX_FILE
    with writing_to(path), atomic_file(path) as partial:
        pq.write_table(index.replace_schema_metadata(metadata), partial)
    return path


@contextmanager
def sampling_from(split_dir: Path) -> Iterator[SolutionIndex]:
    """The index of a split, as `read_index`; errors name the split."""
    index = read_index(split_dir)
    try:
        yield index
    except UserError as error:
        raise UserError(f"{split_dir}: {error}") from error


def read_index(split_dir: Path) -> SolutionIndex:
    """The index of a split.

    Raises UserError naming the command that makes it if it is missing, damaged, or of another version of the split.
    """
    path = split_dir / INDEX_FILE
    dataset = split_dir.parent.name
    remedy = prepare_command(dataset, "small" if dataset.endswith(SMALL) else "metadata")
    with opened_table(path, _SCHEMA, remedy) as file:
        described = json.loads((file.schema_arrow.metadata or {}).get(_METADATA, b"{}"))
        if described.get("made_of") != _fingerprint(split_dir):
            raise UserError(f"{path} is not of the split's present files: delete it and make it again with `{remedy}`")
        solutions = file.read(columns=_SCHEMA.names)
    with opened_table(split_dir / PROBLEMS_FILE, PROBLEM_SCHEMA) as file:
        problems = file.read(columns=["difficulty", "rating"])
    return SolutionIndex(
        problem=solutions["problem"].to_numpy(),
        is_correct=solutions["is_correct"].to_numpy(),
        length=solutions["length"].to_numpy(),
        difficulty=problems["difficulty"].to_numpy(),
        rating=problems["rating"].fill_null(UNKNOWN).to_numpy(),
        unit=described["unit"],
    )


def _fingerprint(split_dir: Path) -> dict[str, int]:
    """Bytes of the files that the index describes: a split that was rebuilt with other contents has other sizes."""
    return {name: (split_dir / name).stat().st_size for name in (PROBLEMS_FILE, SOLUTIONS_FILE)}


def _load(tokenizer: str | Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer  # seconds, which an index in characters does without

    folder = Path(tokenizer)
    if not folder.is_dir():
        instead = "there is no such folder here either: give --tokenizer DIR"
        folder = fetch(str(tokenizer), "model", patterns=_TOKENIZER_FILES, instead=instead).folder
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = first_line(error)
        raise UserError(f"{tokenizer}: no readable tokenizer: {reason}") from error


def _lengths_by(tokenizer: "PreTrainedTokenizerBase") -> Callable[[pa.Array], pa.Array]:
    def lengths(programs: pa.Array) -> pa.Array:
        encoded = tokenizer(programs.to_pylist(), add_special_tokens=False, return_attention_mask=False, verbose=False)
        return pa.array([len(ids) for ids in encoded["input_ids"]], pa.int32())

    return lengths
