"""HumanEval+ and MBPP+: inputs in upstream's files, expected values from the reference, oracles, tolerances."""

import ast
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from weighted_mtp.data.schema import Entry, TestCase
from weighted_mtp.data.sources import evalplus
from weighted_mtp.data.sources.rows import TOO_LONG, Reading
from weighted_mtp.data.sources.syntax import literal
from weighted_mtp.errors import UserError

PROMPT = 'def half(x):\n    """Half of it."""\n'
TASK = '"""\nWrite a function.\nassert half(2) == 1\n"""\n'


def read(path: Path, answers: Any, mbpp: bool = False, **changes: Any) -> Entry:
    row = {
        "task_id": "Mbpp/9" if mbpp else "HumanEval/0",
        "prompt": TASK if mbpp else PROMPT,
        "entry_point": "half",
        "canonical_solution": "    return x / 2\n",
        "base_input": [[4]],
        "plus_input": [[1], [0]],
        "atol": 0,
        **changes,
    }
    path.write_text(json.dumps(row) + "\n")
    reading = Reading(answers=answers if answers is None or callable(answers) else lambda *_: answers)
    return next((evalplus.read_mbpp if mbpp else evalplus.read_humaneval)(path, reading))


def test_what_the_reference_returns_is_expected_base_and_plus_apart(tmp_path: Path) -> None:
    asked = []
    entry = read(tmp_path / "f", lambda *what: asked.append(what) or [2, 5, None])
    assert asked == [(PROMPT + "    return x / 2\n", "half", ["(4,)", "(1,)", "(0,)"])]
    assert entry.problem.tests == (
        TestCase("call", "(4,)", "2", suite="base"),
        TestCase("call", "(1,)", "5", suite="plus"),
        TestCase("call", "(0,)", "None", suite="plus"),
    )
    assert (entry.problem.problem_id, entry.problem.split, entry.problem.entry_point) == (
        "humaneval+/0",
        "test",
        "half",
    )
    assert (entry.problem.starter, entry.problem.description) == (PROMPT, "Half of it.")
    assert [(s.code, s.is_correct) for s in entry.solutions] == [(PROMPT + "    return x / 2\n", True)]


def test_floats_have_a_tolerance_from_the_first_one_of_their_suite_on(tmp_path: Path) -> None:
    entry = read(tmp_path / "f", [2, 0, 1.5, [], 7], base_input=[[4]], plus_input=[[1], [0], [2], [3]])
    assert [test.atol for test in entry.problem.tests] == [0, 0, 1e-6, 1e-6, 1e-6]
    entry = read(tmp_path / "f", [[1.0, 2.0], [1, 2.0], "1.0"])
    assert [test.atol for test in entry.problem.tests] == [1e-6, 0, 0]
    entry = read(tmp_path / "f", [1, 2, 3], atol=1e-4)
    assert [test.atol for test in entry.problem.tests] == [1e-4] * 3


def test_tests_whose_value_is_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    entry = read(tmp_path / "f", [2, TOO_LONG, 3])
    assert [test.input for test in entry.problem.tests] == ["(4,)", "(0,)"]
    assert entry.dropped == {"test with an expected value of over 1,000,000 bytes": 1}


@pytest.mark.parametrize(
    ("task", "value", "code"),
    [
        ("Mbpp/2", (4,), "assert set(half(4,)) == set((4,))"),
        (
            "Mbpp/737",
            object(),
            "found = half(4,)\nassert (found if isinstance(found, bool) else found is not None) == True",
        ),
        (
            "Mbpp/737",
            None,
            "found = half(4,)\nassert (found if isinstance(found, bool) else found is not None) == False",
        ),
    ],
)
def test_tasks_with_several_right_answers_have_evalplus_oracles(
    tmp_path: Path, task: str, value: Any, code: str
) -> None:
    row = {"task_id": task, "base_input": [[4]], "plus_input": []}
    (test,) = read(tmp_path / "f", [value], mbpp=task != "Mbpp/2", **row).problem.tests
    assert test == TestCase("code", "", code)


def test_a_second_reading_of_a_task_is_accepted(tmp_path: Path) -> None:
    (test,) = read(
        tmp_path / "f", [3], mbpp=True, task_id="Mbpp/558", base_input=[[23, 256]], plus_input=[]
    ).problem.tests
    assert test.output == f"assert half(23, 256) in (3, {2 + 3 + 3})"
    (test,) = read(
        tmp_path / "f", [33], mbpp=True, task_id="Mbpp/581", base_input=[[3, 4]], plus_input=[]
    ).problem.tests
    assert test.output == f"assert half(3, 4) in (33, {round(9 + 6 * math.sqrt(1.5**2 + 16))})"


def test_a_root_is_judged_by_its_polynomial(tmp_path: Path) -> None:
    changes = {"task_id": "HumanEval/32", "atol": 0.0001, "base_input": [[[1, 2]]], "plus_input": []}
    (test,) = read(tmp_path / "f", [-0.5], **changes).problem.tests
    assert test.output == "assert abs(poly(*([1, 2],), half([1, 2],))) <= 0.0001"


def test_mbpp_shows_its_task_and_assert(tmp_path: Path) -> None:
    problem = read(tmp_path / "f", [1, 2, 3], mbpp=True).problem
    assert problem.problem_id == "mbpp+/9"
    assert problem.description == "Write a function.\nassert half(2) == 1"
    assert problem.starter == TASK


@pytest.mark.parametrize(
    ("task", "arguments", "meant"),
    [
        ("Mbpp/9", [[1, 2]], ([1, 2],)),
        ("Mbpp/2", [[1], [2]], ((1,), (2,))),
        ("Mbpp/63", [[[1, 2]]], ([(1, 2)],)),
        ("Mbpp/75", [[[1, 2]], [6]], ([(1, 2)], [6])),
        ("Mbpp/106", [[1], [2]], ([1], (2,))),
        ("Mbpp/115", [[[1], [], {}]], ([{1}, {}, {}],)),
        ("Mbpp/124", ["0", "1j"], (0.0, 1j)),
        ("Mbpp/307", [[1], 2, [3]], ((1,), 2, [3])),
        ("Mbpp/252", ["1"], (1 + 0j,)),
        ("Mbpp/259", [[[1]], [[2]]], (((1,),), ((2,),))),
        ("Mbpp/278", [[1, [2]]], ((1, (2,)),)),
        ("Mbpp/580", [[1, [2, [3]]]], ((1, (2, (3,))),)),
        ("Mbpp/722", [{"a": [1]}, [2], 3], ({"a": (1,)}, [2], 3)),
    ],
)
def test_mbpps_arguments_have_the_types_that_json_took_from_them(
    tmp_path: Path, task: str, arguments: list[Any], meant: tuple[Any, ...]
) -> None:
    asked = []
    answers = lambda *what: asked.append(what) or [True]  # noqa: E731
    read(tmp_path / "f", answers, mbpp=True, task_id=task, base_input=[arguments], plus_input=[])
    assert repr(ast.literal_eval(asked[0][2][0])) == repr(meant)


@pytest.mark.parametrize(
    ("answers", "changes", "message"),
    [
        (None, {}, "what HumanEval/0 expects comes from executing its reference"),
        ([1, object(), 2], {}, "cannot be written as a Python literal; give the file in its upstream form"),
        ([1, 2, 3], {"plus_input": None}, "column 'plus_input' is null, which is not a list or an object"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, answers: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"f line 1: .*{message}"):
        read(tmp_path / "f", answers, **changes)


def test_an_argument_of_another_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="base_input of Mbpp/2: 'int' object is not iterable"):
        read(tmp_path / "f", [1], mbpp=True, task_id="Mbpp/2", base_input=[[1]])


@pytest.mark.parametrize(("file", "number", "base"), [("HumanEvalPlus", 164, 1570), ("MbppPlus", 378, 1174)])
def test_the_real_files_have_all_problems_and_every_input(shared: Path, file: str, number: int, base: int) -> None:
    path = shared / "evalplus" / f"{file}.jsonl.gz"
    reader = evalplus.read_mbpp if file == "MbppPlus" else evalplus.read_humaneval
    entries = list(reader(path, Reading(answers=lambda program, name, inputs: [True] * len(inputs))))
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(entries) == number
    assert sum(test.suite == "base" for e in entries for test in e.problem.tests) == base
    assert [len(e.problem.tests) for e in entries] == [len(r["base_input"]) + len(r["plus_input"]) for r in rows]


@pytest.mark.parametrize(
    "value",
    [None, True, -5, 2**70, [-(10**5000)], 0.1, math.inf, [-math.inf], "é\n'\"", b"\0", (), (1,), [(1, [2])], {},
     {"a": {1}}, set(), {3, 1, 2}, 1 + 2j, {(1, "a"): None}],
)  # fmt: skip
def test_a_literal_is_read_back_as_the_value(value: Any) -> None:
    back = ast.literal_eval(literal(value))
    assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize("value", [math.nan, object(), [frozenset()], complex(math.inf, 0)])
def test_what_has_no_literal_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="cannot be written as a Python literal"):
        literal(value)
