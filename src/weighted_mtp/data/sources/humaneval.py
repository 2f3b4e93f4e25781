"""HumanEval (Chen et al. 2021, arXiv 2107.03374): 164 functions to complete, all of them for evaluation."""

import ast
from collections.abc import Iterator
from pathlib import Path

from weighted_mtp.data.schema import Entry, Problem, Solution, TestCase
from weighted_mtp.data.sources.rows import DEFAULT, Reading, SourceRow, read_rows
from weighted_mtp.data.sources.syntax import parse_python
from weighted_mtp.errors import UserError

_COLUMNS = {"task_id": str, "prompt": str, "entry_point": str, "canonical_solution": str, "test": str}


def read(path: Path, reading: Reading = DEFAULT) -> Iterator[Entry]:
    """Problems and canonical solutions of `HumanEval.jsonl(.gz)` or the hub's Parquet; their split is "test".

    The starter is the prompt, the description its docstring, and a solution's code the prompt with the canonical
    body. There is one test: upstream's `check`, called with the entry point.

    Raises UserError as `read_rows`, or if a prompt is not Python.
    """
    for row in read_rows(path, _COLUMNS, reading.on_bytes, reading.group):
        name = row["task_id"]
        problem = Problem(
            problem_id=name,
            source="humaneval",
            split="test",
            description=docstring(row),
            starter=row["prompt"],
            entry_point=row["entry_point"],
            tests=(TestCase("code", "", f"{row['test']}\ncheck({row['entry_point']})"),),
        )
        canonical = Solution(f"{name}/canonical", name, row["prompt"] + row["canonical_solution"], True)
        yield Entry(problem, [canonical], row.where)


def docstring(row: SourceRow) -> str:
    """The first text that is a statement of its own in the entry point's body, as written; one task has an import
    before it.

    Raises UserError if the row's prompt is not Python, or has no such text.
    """
    try:
        module = parse_python(row["prompt"])
    except SyntaxError as error:
        raise UserError(
            f"{row.where}: the prompt of {row['task_id']} is not Python ({error.msg}); "
            "give the file in its upstream form"
        ) from error
    for function in module.body:
        if isinstance(function, ast.FunctionDef) and function.name == row["entry_point"]:
            for statement in function.body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    quoted = ast.get_source_segment(row["prompt"], statement.value)
                    return str(quoted)[3:-3].strip()
    raise UserError(
        f"{row.where}: the prompt of {row['task_id']} has no function {row['entry_point']!r} "
        "with a docstring; give the file in its upstream form"
    )
