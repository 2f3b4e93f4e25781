"""HumanEval+ and MBPP+ (Liu et al. 2023, arXiv 2305.01210): known benchmarks with many more inputs for each problem.

The files hold only inputs. What is expected is what the reference returns, run in the sandbox while preparing.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from weighted_mtp.data.schema import Entry, Problem, Solution, Suite, TestCase
from weighted_mtp.data.sources.humaneval import docstring
from weighted_mtp.data.sources.rows import DEFAULT, TOO_LONG, Columns, Reading, SourceRow, read_rows
from weighted_mtp.data.sources.syntax import literal
from weighted_mtp.errors import UserError

_COLUMNS: Columns = {
    "task_id": str,
    "prompt": str,
    "entry_point": str,
    "canonical_solution": str,
    "base_input": list,
    "plus_input": list | dict,  # {} if there is none
    "atol": int | float,
}
_Inputs = dict[Suite, list[list[Any]]]

_ATOL_OF_FLOATS = 1e-6

# Tasks with several right answers, as evalplus/eval/_special_oracle.py has them.
_ROOTS = ("HumanEval/32",)
_SETS = ("Mbpp/2", "Mbpp/7", "Mbpp/111", "Mbpp/140", "Mbpp/232", "Mbpp/249", "Mbpp/579", "Mbpp/769")
_PRESENCE = ("Mbpp/737", "Mbpp/787", "Mbpp/794")


def _digit_distance(first: int, second: int) -> int:
    """Mbpp/558 read so that the shorter number has leading zeros."""
    width = max(len(str(first)), len(str(second)))
    digits = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(one) - int(other)) for one, other in digits)


def _pyramid_surface(edge: float, height: float) -> int:
    """Mbpp/581 read so that its second argument is the height of the apex, not of a face."""
    return round(edge**2 + 2 * edge * math.hypot(edge / 2, height))


_SECOND_READING: dict[str, Callable[..., Any]] = {"Mbpp/558": _digit_distance, "Mbpp/581": _pyramid_surface}


def read_humaneval(path: Path, reading: Reading = DEFAULT) -> Iterator[Entry]:
    """Problems and references of `HumanEvalPlus.jsonl(.gz)`, release v0.1.10; their split is "test".

    As HumanEval's, but for the tests: the arguments of HumanEval's own tests ("base"), then EvalPlus' ("plus").
    A root of HumanEval/32 is judged by the polynomial's value there, which may be off by `atol`.

    Departure: a test whose expected value takes over 1,000,000 bytes is left out, and counted: such tests repeat what
    smaller ones test, and would cross the sandbox's wall with every program that is evaluated.

    Raises UserError as `read_rows`; if a prompt is not Python; if nothing may be executed (`reading.answers`),
    or a reference does not answer all inputs.
    """
    for row in read_rows(path, _COLUMNS, reading.on_bytes, reading.group):
        inputs: _Inputs = {"base": row["base_input"], "plus": row["plus_input"]}
        yield _entry(row, reading, "humaneval+", docstring(row), inputs)


def read_mbpp(path: Path, reading: Reading = DEFAULT) -> Iterator[Entry]:
    """Problems and references of `MbppPlus.jsonl(.gz)`, release v0.2.0; their split is "test", wherever MBPP has them.

    The starter is EvalPlus' prompt, a docstring with the task and one assert. Tests as in `read_humaneval`. EvalPlus'
    own oracles for tasks with several right answers (evalplus/eval/_special_oracle.py) are kept: results compared as
    sets, or by whether there is one at all, and a second reading of two tasks.

    Raises UserError as `read_humaneval`.
    """
    for row in read_rows(path, _COLUMNS, reading.on_bytes, reading.group):
        inputs: _Inputs = {"base": _typed(row, "base_input"), "plus": _typed(row, "plus_input")}
        yield _entry(row, reading, "mbpp+", row["prompt"].strip().strip('"').strip(), inputs)


def _entry(row: SourceRow, reading: Reading, source: str, description: str, inputs: _Inputs) -> Entry:
    name = f"{source}/{row['task_id'].rpartition('/')[2]}"
    reference = row["prompt"] + row["canonical_solution"]
    dropped: Counter[str] = Counter()
    try:
        tests = tuple(_tests(row, reading, reference, inputs, dropped))
    except ValueError as error:
        raise UserError(f"{row.where}: {row['task_id']}: {error}; give the file in its upstream form") from error
    problem = Problem(
        problem_id=name,
        source=source,
        split="test",
        description=description,
        starter=row["prompt"],
        entry_point=row["entry_point"],
        tests=tests,
    )
    return Entry(problem, [Solution(f"{name}/reference", name, reference, True)], row.where, dropped)


def _tests(
    row: SourceRow, reading: Reading, reference: str, inputs: _Inputs, dropped: Counter[str]
) -> Iterator[TestCase]:
    """Raises UserError if the reference cannot be run, ValueError for what is no literal."""
    if reading.answers is None:
        raise UserError(f"{row.where}: what {row['task_id']} expects comes from executing its reference")
    calls = [(suite, arguments, literal(tuple(arguments))) for suite in inputs for arguments in inputs[suite]]
    values = reading.answers(reference, row["entry_point"], [given for _, _, given in calls])
    atol = dict.fromkeys(inputs, float(row["atol"]))
    for (suite, arguments, given), value in zip(calls, values, strict=True):
        if value is TOO_LONG:
            dropped["test with an expected value of over 1,000,000 bytes"] += 1
            continue
        if atol[suite] == 0 and _is_floats(value):
            atol[suite] = _ATOL_OF_FLOATS  # for all that follow of the suite, as in EvalPlus
        code = _oracle(row, arguments, given, value)
        if code:
            yield TestCase("code", "", code, suite=suite)
        else:
            yield TestCase("call", given, literal(value), suite=suite, atol=atol[suite])


def _is_floats(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _oracle(row: SourceRow, arguments: list[Any], given: str, value: Any) -> str:
    """Test code for a task with several right answers; "" for all others."""
    task, call = row["task_id"], f"{row['entry_point']}{given}"
    if task in _ROOTS:  # the prompt defines poly
        return f"assert abs(poly(*{given}, {call})) <= {row['atol']}"
    if task in _SETS:
        return f"assert set({call}) == set({literal(value)})"
    if task in _PRESENCE:
        return (
            f"found = {call}\nassert (found if isinstance(found, bool) else found is not None) == {value is not None}"
        )
    if task in _SECOND_READING:
        return f"assert {call} in ({literal(value)}, {literal(_SECOND_READING[task](*arguments))})"
    return ""


# What MBPP's arguments were before JSON made lists of them, by task (`mbpp_deserialize_inputs` in
# evalplus/data/mbpp.py): a converter for each argument, of which the last one serves for all further ones.


def _same(value: Any) -> Any:
    return value


def _tuples(values: list[Any]) -> list[Any]:
    return [tuple(value) for value in values]


def _tuple_of_tuples(values: list[Any]) -> tuple[Any, ...]:
    return tuple(_tuples(values))


def _tuple_of_mixed(values: list[Any]) -> tuple[Any, ...]:
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def _deep_tuple(value: Any) -> Any:
    return tuple(map(_deep_tuple, value)) if isinstance(value, list) else value


def _sets(values: list[Any]) -> list[Any]:
    return [set(value) if value and isinstance(value, list) else {} for value in values]


def _values_as_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) for key, value in values.items()}


_TYPES: dict[tuple[Callable[[Any], Any], ...], str] = {
    (tuple,): "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809",
    (_tuples,): "63 64 70 94 120 237 272 299 400 409 417 438 473 614 780",
    (_tuples, _same): "75 413 444 753",
    (_same, tuple): "106 750",
    (_sets,): "115",
    (float, complex): "124",
    (tuple, _same): "250 307 405 446 617 720 763 808",
    (complex,): "252",
    (_tuple_of_tuples,): "259 401 445",
    (_tuple_of_mixed,): "278",
    (_deep_tuple,): "580 615 791",
    (_values_as_tuples, _same): "722",
}
_TYPES_OF = {f"Mbpp/{number}": types for types, numbers in _TYPES.items() for number in numbers.split()}


def _typed(row: SourceRow, column: str) -> list[list[Any]]:
    types = _TYPES_OF.get(row["task_id"], (_same,))
    try:
        return [
            [convert(value) for convert, value in zip(_lengthened(types, len(arguments)), arguments, strict=True)]
            for arguments in row[column]
        ]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{row.where}: {column} of {row['task_id']}: {error}; give the file in its upstream form"
        ) from error


def _lengthened(types: tuple[Callable[[Any], Any], ...], length: int) -> list[Callable[[Any], Any]]:
    return [types[min(number, len(types) - 1)] for number in range(length)]
