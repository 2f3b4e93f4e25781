"""MBPP (Austin et al. 2021, arXiv 2108.07732): 974 short tasks with their own splits."""

import ast
from collections.abc import Iterator
from pathlib import Path

from weighted_mtp.data.schema import Entry, Problem, Solution, TestCase
from weighted_mtp.data.sources.rows import DEFAULT, Reading, SourceRow, read_rows, unix
from weighted_mtp.data.sources.syntax import parse_python
from weighted_mtp.errors import UserError

# Upstream's task ids; "prompt" holds the few-shot examples.
TASK_RANGES = {"prompt": range(1, 11), "test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}

_COLUMNS = {
    "task_id": int,
    "text": str,
    "code": str,
    "test_setup_code": str,
    "test_list": list,
    "challenge_test_list": list,
}


def read(path: Path, reading: Reading = DEFAULT) -> Iterator[Entry]:
    """Problems and reference solutions of `mbpp.jsonl(.gz)` or the hub's Parquet; the task id gives the split.

    Each assert is one test; those that upstream shows in its prompts are public, the challenge tests "generated".

    Raises UserError as `read_rows`, or for a task id outside of all splits.
    """
    for row in read_rows(path, _COLUMNS, reading.on_bytes, reading.group):
        problem_id, code = f"mbpp/{row['task_id']}", unix(row["code"])
        tests = tuple(_tests(row))
        problem = Problem(
            problem_id=problem_id,
            source="mbpp",
            split=_split(row),
            description=unix(row["text"]).strip(),
            entry_point=_entry_point(code, tests),
            tests=tests,
        )
        yield Entry(problem, [Solution(f"{problem_id}/reference", problem_id, code, True)], row.where)


def _tests(row: SourceRow) -> Iterator[TestCase]:
    set_up = unix(row["test_setup_code"])
    for text in row["test_list"]:
        yield TestCase("code", set_up, unix(text), "public")
    for text in row["challenge_test_list"]:
        yield TestCase("code", set_up, unix(text), "generated")


def _split(row: SourceRow) -> str:
    for split, task_ids in TASK_RANGES.items():
        if row["task_id"] in task_ids:
            return split
    raise UserError(f"{row.where}: task_id {row['task_id']} is not one of MBPP's 1 to 974; remove the line")


def _entry_point(code: str, tests: tuple[TestCase, ...]) -> str:
    """The one function of the reference that every assert calls; "" if there is none or a choice."""
    try:
        defined = {node.name for node in parse_python(code).body if isinstance(node, ast.FunctionDef)}
        called = [_called_names(test.output) for test in tests]
    except SyntaxError:
        return ""
    common = defined.intersection(*called)
    return common.pop() if len(common) == 1 else ""


def _called_names(code: str) -> set[str]:
    calls = (node for node in ast.walk(parse_python(code)) if isinstance(node, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}
