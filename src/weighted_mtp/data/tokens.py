"""A split's programs as tokens: made once for a tokenizer and a template, then read by memory map in no time.

All solutions are kept in full, prompts once per problem, so that seeds, samples, pairs and lengths of any run choose
rows of the same files. They lie in `<datasets>/.tokens/<dataset>/<split>/<template>-<tokenizer>`, with the date behind
it where prompts name one. Whoever needs them first makes them, while others wait; a kill loses some seconds of the
work.
"""

import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.batches import TokenStore
from weighted_mtp.data.prepared import split_checksums, split_files
from weighted_mtp.data.prompts import encode_problem, encode_responses, names_a_date, require_white_space
from weighted_mtp.data.schema import PROBLEM_SCHEMA, SOLUTION_SCHEMA, Span
from weighted_mtp.data.tables import PROBLEMS_FILE, SOLUTIONS_FILE, opened_table, read_statements
from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_file, check_files, sha256, writing_to
from weighted_mtp.manifest import Manifest, files_present, named_files, read_manifest, write_manifest
from weighted_mtp.progress import progress, say

FOLDER = ".tokens"
"""Beside the datasets, whose manifests know nothing of it."""

_VERSION = 2  # of this code: raise it with any change that changes what the same input gives
_PROGRAMS = 2_000  # tokenized at once
_BETWEEN_SAVES = 32_000  # programs after which a kill loses nothing that is before
_CHECKED = 64 << 20  # bytes up to which contents are checked at every start; of larger files sizes are
_STATE = "state.json"  # of a folder in the making
_COLUMNS = {
    "ids": np.int32,  # of prompts, then of responses
    "marks": np.uint8,  # bits of `prompts.MARKS`
    "prompt_lengths": np.int32,  # (P,) tokens of each problem's prompt
    "response_lengths": np.int32,  # (N,) tokens of each solution with EOS
    "problems": np.int32,  # (N,) row of problems.parquet
    "correct": np.bool_,  # (N,)
    "names": np.uint8,  # UTF-8 of the solutions' ids
    "name_lengths": np.int32,  # (N,) bytes
}


@dataclass(frozen=True)
class SplitTokens:
    """All solutions of a split, in its order; `store.at(rows)` chooses."""

    store: TokenStore
    is_correct: NDArray[np.bool_]  # (N,)


class _Names(Sequence[str]):
    """Ids, read when they are needed."""

    def __init__(self, text: NDArray[np.uint8], lengths: NDArray[np.int32]) -> None:
        self.text, self.ends = text, np.cumsum(lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: Any) -> Any:
        start = self.ends[row - 1] if row else 0
        return self.text[start : self.ends[row]].tobytes().decode()


def split_tokens(
    split_dir: Path,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    root: Path | None = None,
    day: datetime.date | None = None,
) -> SplitTokens:
    """The tokens of a split, by memory map; made first if they are missing, damaged, or made from another split.

    root  folder of all token files; None for FOLDER beside the datasets
    day   as of `render_prompt`; prompts that name a date have token files of their own for each

    Several processes may call it at once. Raises UserError as `read_statements`, `encode_responses`, for a solution
    without its problem, and for a place that cannot be written.
    """
    identity, dataset = tokenizer_identity(tokenizer), split_dir.parent
    date = (day or datetime.date.today()).isoformat() if names_a_date(template, tokenizer) else None
    wanted = {
        "version": _VERSION,
        "template": template,
        "date": date,
        "tokenizer": identity,
        "made_of": contents_of(split_dir),
    }
    root = root or dataset.parent / FOLDER
    name = "-".join(part for part in (template, identity[:16], date) if part is not None)
    folder = root / dataset.name / split_dir.name / name
    with writing_to(folder):
        if not _is_whole(folder, wanted):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                if not _is_whole(folder, wanted, loudly=True):  # it may have been made while we waited
                    _make(folder, split_dir, tokenizer, wanted)
    return _open(folder)


def check_tokens(folder: Path) -> str:
    """Compare all contents of one folder of tokens with its manifest; returns what it holds, in a line.

    A run at its start compares small files only. Raises UserError for the first thing that is wrong.
    """
    check_files(folder, named_files(folder))
    tokens = _open(folder)
    return f"{len(tokens.is_correct):,} solutions, {len(tokens.store.ids):,} tokens"


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of everything that decides which tokens a text becomes."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {
        **{name: part for name, part in backend.items() if name not in ("padding", "truncation")},
        "bos": tokenizer.bos_token,
        "eos": tokenizer.eos_token,
        "eos_id": tokenizer.eos_token_id,
        "chat_template": tokenizer.chat_template,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def contents_of(split_dir: Path) -> list[str]:
    """SHA-256 of the split's two files; from the manifest if that describes these files."""
    for name, schema in ((PROBLEMS_FILE, PROBLEM_SCHEMA), (SOLUTIONS_FILE, SOLUTION_SCHEMA)):
        with opened_table(split_dir / name, schema):
            pass
    manifest = read_manifest(split_dir.parent) or {}
    if files_present(split_dir.parent, manifest, split_files(split_dir.name)):
        return split_checksums(manifest, split_dir.name)
    return [sha256(split_dir / name) for name in (PROBLEMS_FILE, SOLUTIONS_FILE)]


def _is_whole(folder: Path, wanted: Manifest, loudly: bool = False) -> bool:
    """Whether the folder holds what is wanted; `loudly` says so if it should, but is damaged."""
    try:
        there = read_manifest(folder) or {}
        if any(there.get(key) != value for key, value in wanted.items()):
            return False
        small = [name for name in _COLUMNS if there["files"][name]["bytes"] <= _CHECKED]
        if files_present(folder, there, _COLUMNS) and all(
            sha256(folder / name) == there["files"][name]["sha256"] for name in small
        ):
            return True
    except (UserError, KeyError):
        pass
    if loudly:
        say(f"{folder} is damaged: tokenizing again")
    return False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of all that share the file system at a time; a killed one holds nothing."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for the process that makes {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _open(folder: Path) -> SplitTokens:
    columns = {name: _map(folder / name, kind) for name, kind in _COLUMNS.items()}
    prompts, responses = (columns[f"{name}_lengths"].astype(np.int64) for name in ("prompt", "response"))
    problem = columns["problems"]
    border = prompts[problem]
    store = TokenStore(
        ids=columns["ids"],
        marks=columns["marks"],
        prompt_at=(np.cumsum(prompts) - prompts)[problem],
        response_at=np.cumsum(responses) - responses + prompts.sum(),
        response_start=border,
        lengths=border + responses,
        sample_ids=_Names(columns["names"], columns["name_lengths"]),
    )
    return SplitTokens(store, columns["correct"])


def _map(path: Path, kind: type) -> NDArray[Any]:
    return np.memmap(path, kind, mode="r") if path.stat().st_size else np.empty(0, kind)


def _make(folder: Path, split_dir: Path, tokenizer: PreTrainedTokenizerBase, wanted: Manifest) -> None:
    """Write the folder, or continue what a killed process left of the same one."""
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        with _Writer(partial, wanted) as writer, opened_table(split_dir / SOLUTIONS_FILE, SOLUTION_SCHEMA) as file:
            require_white_space(tokenizer)
            problems = read_statements(split_dir)
            if writer.is_new:
                day = datetime.date.fromisoformat(wanted["date"]) if wanted["date"] is not None else None
                prompts = [encode_problem(tokenizer, wanted["template"], problem, day) for problem in problems]
                writer.add(ids=_flat(prompts), marks=bytes(sum(map(len, prompts))), prompt_lengths=_lengths(prompts))
            home = pa.array([problem.problem_id for problem in problems])
            title = f"tokenizing {split_dir.parent.name}/{split_dir.name}"
            with progress(title, file.metadata.num_rows, writer.done) as advance:
                for rows in _rows(file, writer.done):
                    writer.add(len(rows), **_encoded(rows, home, tokenizer, split_dir))
                    advance(len(rows))
            writer.save()
        (partial / _STATE).unlink()
        write_manifest(partial, wanted)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


class _Writer:
    """Columns that grow in a folder, and how many solutions of them are safe from a kill; a context manager."""

    def __init__(self, folder: Path, wanted: Manifest) -> None:
        state = _state(folder, wanted)
        if not state:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.is_new, self.done = not state, state.get("done", 0)
        self._folder, self._wanted, self._unsaved = folder, wanted, 0
        with ExitStack() as stack:
            self._files = {name: stack.enter_context((folder / name).open("ab")) for name in _COLUMNS}
            for name, file in self._files.items():
                file.truncate(state.get("bytes", {}).get(name, 0))
            self._open = stack.pop_all()

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def add(self, solutions: int = 0, **columns: NDArray[Any] | bytes) -> None:
        """Append values to columns, which then describe this many solutions."""
        for name, values in columns.items():
            self._files[name].write(values if isinstance(values, bytes) else values.astype(_COLUMNS[name]).data)
        self.done += solutions
        self._unsaved += solutions
        if self._unsaved >= _BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """From here on a kill takes nothing of what was added."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        sizes = {name: (self._folder / name).stat().st_size for name in _COLUMNS}
        with atomic_file(self._folder / _STATE) as partial:
            partial.write_text(json.dumps({"wanted": self._wanted, "done": self.done, "bytes": sizes}))
        self._unsaved = 0


def _state(folder: Path, wanted: Manifest) -> dict[str, Any]:
    """What a killed process left in a folder, {} if it is nothing, or of something else."""
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text())
        is_there = all((folder / name).stat().st_size >= size for name, size in state["bytes"].items())
    except (OSError, ValueError, KeyError):
        return {}
    return state if is_there and state["wanted"] == wanted else {}


def _rows(file: Any, done: int) -> Iterator[pa.RecordBatch]:
    """Batches of solutions from row `done` on."""
    columns = ["solution_id", "problem_id", "code", "is_correct", "spans"]
    before, groups = 0, []
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if before + size > done:
            groups.append(group)
        else:
            before += size
    skip = done - before
    for batch in file.iter_batches(_PROGRAMS, row_groups=groups, columns=columns) if groups else ():
        if skip < len(batch):
            yield batch.slice(skip)
        skip = max(skip - len(batch), 0)


def _encoded(
    rows: pa.RecordBatch, home: pa.Array, tokenizer: PreTrainedTokenizerBase, split_dir: Path
) -> dict[str, Any]:
    """The columns of some solutions."""
    problem = pc.index_in(rows["problem_id"], value_set=home)
    if problem.null_count:
        stray = rows.filter(pc.is_null(problem)).slice(0, 1).to_pylist()[0]
        raise UserError(
            f"{split_dir / SOLUTIONS_FILE}: solution {stray['solution_id']!r} is of problem {stray['problem_id']!r}, "
            f"which is not in {PROBLEMS_FILE}"
        )
    marked = bool(pc.any(pc.greater(pc.list_value_length(rows["spans"]), 0)).as_py())
    spans = [[Span(**span) for span in of] for of in rows["spans"].to_pylist()] if marked else [()] * len(rows)
    ids, marks = zip(*encode_responses(tokenizer, rows["code"].to_pylist(), spans), strict=True)
    names = [name.encode() for name in rows["solution_id"].to_pylist()]
    return {
        "ids": _flat(ids),
        "marks": b"".join(marks),
        "response_lengths": _lengths(ids),
        "problems": problem.to_numpy(),
        "correct": rows["is_correct"].to_numpy(zero_copy_only=False),
        "names": b"".join(names),
        "name_lengths": _lengths(names),
    }


def _flat(lists: Iterable[Sequence[int]]) -> NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(lists), np.int32)


def _lengths(items: Sequence[Sequence[Any]]) -> NDArray[np.int32]:
    return np.fromiter(map(len, items), np.int32, len(items))
