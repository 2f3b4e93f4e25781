"""HumanEval, MBPP, and the reader of JSON lines that they share."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from weighted_mtp.data.schema import Records, TestCase, by_split, read_problems, read_solutions, write_split
from weighted_mtp.data.sources import humaneval, mbpp
from weighted_mtp.data.sources.jsonl import read_jsonl
from weighted_mtp.errors import UserError

COLUMNS = {"id": int, "text": str}
LINES = [{"id": 1, "text": "é"}, {"id": 2, "text": "b"}]


def _write(path: Path, *lines: str | dict[str, Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_plain_and_gzipped_files_read_alike(tmp_path: Path, zipped: bool) -> None:
    path = _write(tmp_path / "a.jsonl", LINES[0], "", LINES[1])
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    rows = read_jsonl(path, COLUMNS, unique="id")
    assert [(row.line, row.values) for row in rows] == [(1, LINES[0]), (3, LINES[1])]


def test_a_line_separator_inside_a_string_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": "a\u2028b"}\n', encoding="utf-8")
    assert read_jsonl(path, COLUMNS, unique="id")[0]["text"] == "a\u2028b"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"id": 2, "text": ', r"line 2: broken JSON \(.* at column 19\); fetch the file again"),
        ("[1]", "line 2: a JSON list; every line must be one JSON object"),
        ({"id": 2}, r"line 2: no column 'text' \(it has id\); give the file in its upstream form"),
        ({"id": 2, "text": None}, "line 2: column 'text' is null, which is not a string; give"),
        ({"id": "2", "text": "b"}, "line 2: column 'id' is \"2\", which is not an integer; give"),
        ({"id": 1, "text": "b"}, "line 2: id 1 is also on line 1; remove one of them"),
    ],
)
def test_a_bad_line_is_one_message_with_file_line_and_remedy(
    tmp_path: Path, second: str | dict[str, Any], message: str
) -> None:
    path = _write(tmp_path / "a.jsonl", LINES[0], second)
    with pytest.raises(UserError, match=rf"^[^\n]*a\.jsonl {message}[^\n]*$"):
        read_jsonl(path, COLUMNS, unique="id")


def test_text_that_is_not_utf8_is_located(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": 1, "text": "a"}\n{"id": 2, "text": "\xe9"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl line 2: not UTF-8 \(byte 0xe9\); convert the file to UTF-8"):
        read_jsonl(path, COLUMNS, unique="id")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl is empty"):
        read_jsonl(_write(tmp_path / "a.jsonl", content), COLUMNS, unique="id")


def test_a_truncated_gzip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(LINES).encode())[:-12])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz is truncated or damaged"):
        read_jsonl(path, COLUMNS, unique="id")


@pytest.mark.parametrize(("name", "message"), [("none", "none does not exist"), (".", "cannot be read")])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_jsonl(tmp_path / name, COLUMNS, unique="id")


@pytest.fixture(scope="module")
def humaneval_records(shared: Path) -> Records:
    return humaneval.read(shared / "humaneval" / "HumanEval.jsonl.gz")


@pytest.fixture(scope="module")
def mbpp_records(shared: Path) -> Records:
    return mbpp.read(shared / "mbpp" / "mbpp.jsonl.gz")


def test_humaneval_has_164_problems_with_a_solution_each(humaneval_records: Records) -> None:
    problems, solutions = humaneval_records
    ids = [f"HumanEval/{number}" for number in range(164)]
    assert [problem.problem_id for problem in problems] == ids
    assert [solution.problem_id for solution in solutions] == ids


def test_a_humaneval_solution_continues_its_starter(humaneval_records: Records) -> None:
    for problem, solution in zip(*humaneval_records, strict=True):
        assert solution.code.startswith(problem.starter)
        compile(solution.code, problem.problem_id, "exec")


def test_a_humaneval_test_calls_check_with_the_entry_point(humaneval_records: Records) -> None:
    for problem in humaneval_records[0]:
        (test,) = problem.tests
        assert (test.kind, test.input) == ("code", "")
        assert test.output.endswith(f"\ncheck({problem.entry_point})")
        assert "def check(candidate):" in test.output


def test_a_humaneval_description_is_the_docstring(humaneval_records: Records) -> None:
    assert (
        humaneval_records[0][23].description
        == "Return length of given string\n    >>> strlen('')\n    0\n    >>> strlen('abc')\n    3"
    )


def test_a_humaneval_description_is_found_behind_an_import(humaneval_records: Records) -> None:
    assert humaneval_records[0][115].description.startswith("You are given a rectangular grid of wells.")


def _humaneval_row(**changes: str) -> dict[str, str]:
    row = {
        "task_id": "HumanEval/0",
        "prompt": 'def f():\n    """x"""\n',
        "entry_point": "f",
        "canonical_solution": "",
        "test": "",
    }
    return {**row, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "def f(:\n"}, "line 1: the prompt of HumanEval/0 is not Python"),
        ({"entry_point": "g"}, "line 1: the prompt of HumanEval/0 has no function 'g' with a docstring"),
        ({"prompt": "def f():\n    pass\n"}, "line 1: the prompt of HumanEval/0 has no function 'f' with a docstring"),
    ],
)
def test_a_bad_humaneval_prompt_is_named(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        humaneval.read(_write(tmp_path / "h.jsonl", _humaneval_row(**changes)))


def test_mbpp_has_974_problems_in_its_own_splits(mbpp_records: Records) -> None:
    problems, solutions = mbpp_records
    assert Counter(problem.split for problem in problems) == {"prompt": 10, "test": 500, "validation": 90, "train": 374}
    assert len({problem.problem_id for problem in problems}) == len(solutions) == 974


@pytest.mark.parametrize(
    ("number", "split"),
    [
        (1, "prompt"),
        (10, "prompt"),
        (11, "test"),
        (510, "test"),
        (511, "validation"),
        (600, "validation"),
        (601, "train"),
        (974, "train"),
    ],
)
def test_mbpp_splits_begin_and_end_where_upstreams_do(mbpp_records: Records, number: int, split: str) -> None:
    assert {problem.problem_id: problem.split for problem in mbpp_records[0]}[f"mbpp/{number}"] == split


def test_mbpp_asserts_are_public_and_challenges_generated(mbpp_records: Records) -> None:
    found = Counter(test.visibility for problem in mbpp_records[0] for test in problem.tests)
    assert found == {"public": 3 * 974, "generated": 8 * 1 + 2 * 3 + 1 * 2}


def test_mbpp_set_up_code_comes_with_each_test(mbpp_records: Records) -> None:
    with_set_up = [problem for problem in mbpp_records[0] if any(test.input for test in problem.tests)]
    assert [problem.problem_id for problem in with_set_up] == ["mbpp/367", "mbpp/927"]
    assert all(test.input.startswith("root = Node(1)") for problem in with_set_up for test in problem.tests)


def test_mbpp_entry_points_are_called_in_every_test(mbpp_records: Records) -> None:
    for problem in mbpp_records[0]:
        assert problem.entry_point
        assert all(re.search(rf"\b{problem.entry_point}\s*\(", test.output) for test in problem.tests)


def test_mbpp_line_ends_are_unified(mbpp_records: Records) -> None:
    problems, solutions = mbpp_records
    texts = [solution.code for solution in solutions] + [test.input for problem in problems for test in problem.tests]
    assert not any("\r" in text for text in texts)


def _mbpp_row(**changes: Any) -> dict[str, Any]:
    row = {
        "task_id": 11,
        "text": "t",
        "code": "def f(): pass",
        "test_setup_code": "",
        "test_list": [],
        "challenge_test_list": [],
    }
    return {**row, **changes}


def test_an_mbpp_task_outside_the_splits_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: task_id 975 is not one of MBPP's 1 to 974"):
        mbpp.read(_write(tmp_path / "m.jsonl", _mbpp_row(task_id=975)))


@pytest.mark.parametrize(
    ("code", "asserts", "entry_point"),
    [
        ("def f(): pass\ndef g(): pass", ["assert g() == 1", "assert g() == f()"], "g"),
        ("def f(): pass\ndef g(): pass", ["assert g() == f()"], ""),
        ("def f(): pass", ["assert h() == 1"], ""),
        ("def f(: pass", ["assert f() == 1"], ""),
    ],
)
def test_the_entry_point_is_told_only_where_it_is_clear(
    tmp_path: Path, code: str, asserts: list[str], entry_point: str
) -> None:
    problems, _ = mbpp.read(_write(tmp_path / "m.jsonl", _mbpp_row(code=code, test_list=asserts)))
    assert problems[0].entry_point == entry_point


def test_real_records_survive_the_disk(mbpp_records: Records, humaneval_records: Records, tmp_path: Path) -> None:
    for records in (mbpp_records, humaneval_records):
        for split, (problems, solutions) in by_split(*records).items():
            write_split(tmp_path / problems[0].source / split, problems, solutions)
            found = (
                read_problems(tmp_path / problems[0].source / split),
                read_solutions(tmp_path / problems[0].source / split),
            )
            assert found == (problems, solutions)


def test_codecontests_fits_the_schema(shared: Path, tmp_path: Path) -> None:
    from weighted_mtp.data.schema import Problem, Solution

    with gzip.open(shared / "codecontests_pairs" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    problems, solutions = [], []
    for row in rows:
        tests = tuple(
            TestCase("stdio", given, expected, visibility)
            for visibility in ("public", "private", "generated")
            for given, expected in zip(
                *((row[f"{visibility}_tests"] or {"input": [], "output": []})[k] for k in ("input", "output")),
                strict=True,
            )
        )
        problems.append(
            Problem(
                row["name"],
                "codecontests",
                "test",
                row["description"],
                difficulty=row["difficulty"],
                rating=row["cf_rating"],
                tests=tests,
                memory_limit=row["memory_limit_bytes"],
            )
        )
        for correct, column in ((True, "solutions"), (False, "incorrect_solutions")):
            solutions += [
                Solution(f"{row['name']}/{column}/{i}", row["name"], code, correct)
                for i, code in enumerate(row[column]["solution"])
            ]
    write_split(tmp_path / "codecontests" / "test", problems, solutions)
    assert read_problems(tmp_path / "codecontests" / "test") == problems
    assert read_solutions(tmp_path / "codecontests" / "test") == solutions
