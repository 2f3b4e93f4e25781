"""A user's own problems: every form of a row, and one line with the row for every mistake."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weighted_mtp.data.preparation.config import Options
from weighted_mtp.data.preparation.prepare import prepare
from weighted_mtp.data.preparation.registry import own_dataset
from weighted_mtp.data.schema import Entry, TestCase
from weighted_mtp.data.sources.own import read
from weighted_mtp.data.sources.rows import Reading
from weighted_mtp.data.tables import untested
from weighted_mtp.errors import UserError

ADD = "def add(a, b):\n    return a + b\n"
SUBTRACT = "def add(a, b):\n    return a - b\n"
ROW: dict[str, Any] = {
    "id": "add",
    "prompt": "Write add(a, b), the sum.",
    "tests": [{"args": [1, 2], "returns": 3}],
    "correct": [ADD],
    "incorrect": [SUBTRACT],
}
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "own_data" / "problems.jsonl"


def written(folder: Path, *rows: Any) -> Path:
    file = folder / "mine.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def entries(folder: Path, *rows: Any) -> list[Entry]:
    return list(read(written(folder, *rows), Reading("mine")))


def test_a_problem_with_calls_becomes_records(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, {**ROW, "split": "test", "time_limit": 2, "memory_limit_mb": 64, "difficulty": 3})
    problem = entry.problem
    assert (problem.problem_id, problem.split, problem.entry_point) == ("mine/add", "test", "add")
    assert problem.tests == (TestCase("call", "(1, 2)", "3"),)
    assert (problem.time_limit, problem.memory_limit, problem.difficulty) == (2.0, 64 << 20, 3)
    assert [(s.code, s.is_correct, s.language) for s in entry.solutions] == [
        (ADD, True, "python3"),
        (SUBTRACT, False, "python3"),
    ]


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("assert add(1, 2) == 3", TestCase("code", "", "assert add(1, 2) == 3")),
        ({"stdin": "1 2\r\n", "stdout": "3\n"}, TestCase("stdio", "1 2\n", "3\n")),
        ({"input": "1 2\n", "output": "3\n"}, TestCase("stdio", "1 2\n", "3\n")),
        ({"input": [[1], "x"], "output": None}, TestCase("call", "([1], 'x')", "None")),
        ({"args": [{"a": 1.5}], "returns": None}, TestCase("call", "({'a': 1.5},)", "None")),
        ({"args": None, "returns": None, "stdin": "1", "stdout": "2"}, TestCase("stdio", "1", "2")),
    ],
)
def test_every_form_of_a_test(tmp_path: Path, test: Any, expected: TestCase) -> None:
    (entry,) = entries(tmp_path, {**ROW, "tests": [test]})
    assert entry.problem.tests == (expected,)


def test_public_assertions_are_shown_to_models_and_others_are_not(tmp_path: Path) -> None:
    row = {**ROW, "prompt": "The sum.", "public_tests": ["assert add(1, 1) == 2"], "tests": ["assert add(1, 2) == 3"]}
    (entry,) = entries(tmp_path, row)
    assert [test.is_shown for test in entry.problem.tests] == [True, False]


def test_completions_and_conversations_are_solutions_without_tests(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "Of course: 2."},
    ]
    first, second = entries(tmp_path, {"prompt": "Sum of a and b.", "completion": ADD}, {"messages": messages})
    assert [s.language for s in (*first.solutions, *second.solutions)] == ["python3", "text"]
    assert (first.problem.problem_id, second.problem.problem_id) == ("mine/1", "mine/2")
    assert second.problem.description == "Be brief.\n\nAdd."
    assert first.problem.tests == second.problem.tests == ()


def test_a_split_not_given_is_that_of_the_ids_hash(tmp_path: Path) -> None:
    rows = [{"id": n, "prompt": f"Add {n}", "completion": "x"} for n in range(400)]
    found = [entry.problem.split for entry in entries(tmp_path, *rows)]
    assert [found.count(split) / 400 for split in ("train", "validation", "test")] == pytest.approx(
        [0.8, 0.1, 0.1], abs=0.05
    )
    assert found == [entry.problem.split for entry in entries(tmp_path, *rows)]


def test_parquet_reads_like_json_lines(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "id": "stdio", "correct": ["print(3)"], "tests": [{"stdin": "", "stdout": "3\n"}]}]
    names = ("args", "returns", "stdin", "stdout")
    same = [{**row, "tests": [{n: test.get(n) for n in names} for test in row["tests"]]} for row in rows]
    pq.write_table(pa.Table.from_pylist(same), tmp_path / "mine.parquet")
    from_parquet = list(read(tmp_path / "mine.parquet", Reading("mine")))
    assert [e.problem for e in from_parquet] == [e.problem for e in entries(tmp_path, *rows)]


CHAT = {"role": "user", "content": "Add."}
MISTAKES = {
    "broken JSON": ('{"id": "a",', "broken JSON"),
    "no object": ("[1, 2]", "every row must be one JSON object"),
    "a misspelt field": ({**ROW, "test": []}, "unknown field 'test'; did you mean 'tests'"),
    "another format's rows": (
        {"instruction": "Add.", "output": "x"},
        "unknown fields 'instruction', 'output'; did you mean 'prompt', 'completion'?",
    ),
    "programs under another name": (
        {"id": "a", "prompt": "Write add.", "tests": ROW["tests"], "solutions": [ADD]},
        "unknown field 'solutions'; did you mean 'correct'?",
    ),
    "calls without a program": (
        {"id": "a", "prompt": "Write add.", "tests": ROW["tests"]},
        "there is no `correct` program that defines it: give its name as `entry_point`",
    ),
    "no prompt": ({"id": "a", "correct": [ADD]}, "no 'prompt' (it has id, correct)"),
    "an empty prompt": ({**ROW, "prompt": " "}, "'prompt' is ' ': give a text"),
    "nothing to learn": ({"id": "a", "prompt": "p"}, "nothing to learn from"),
    "an id that is none": ({**ROW, "id": 1.5}, "`id` is 1.5"),
    "an unknown split": ({**ROW, "split": "tarin"}, "`split` is 'tarin': it must be one of train, validation, test"),
    "programs as one text": ({**ROW, "correct": ADD}, "`correct` is one text: put its programs into a list"),
    "an empty program": ({**ROW, "incorrect": [""]}, "program 1 of `incorrect` is ''"),
    "a correct program that is no Python": ({**ROW, "correct": ["def add(:"]}, "program 1 of `correct` is no Python"),
    "a program of both labels": ({**ROW, "incorrect": [ADD]}, "program 1 of `incorrect` is in `correct`, too"),
    "a function that is not there": ({**ROW, "entry_point": "sum2"}, "does not define 'sum2', the entry_point"),
    "an entry point that is no name": ({**ROW, "entry_point": "a b"}, "`entry_point` is 'a b'"),
    "calls of nobody knows what": ({**ROW, "correct": ["x = 1\ny = 2\n"]}, "give its name as `entry_point`"),
    "a prompt without the function": ({**ROW, "prompt": "The sum."}, "does not name the function 'add'"),
    "tests that are no list": ({**ROW, "tests": {"args": []}}, "`tests` must be a list"),
    "a test that is a number": ({**ROW, "tests": [3]}, "test 1 of `tests` is 3: give"),
    "a test of no form": ({**ROW, "tests": [{"in": 1}]}, "test 1 of `tests` has in: give"),
    "a test without what is expected": ({**ROW, "tests": [{"args": [1]}]}, "has no 'returns' beside 'args'"),
    "a test of two forms": ({**ROW, "tests": [{"args": [1], "returns": 1, "stdin": ""}]}, "has 'stdin' beside 'args'"),
    "arguments that are no list": ({**ROW, "tests": [{"args": 1, "returns": 1}]}, "give the list of arguments"),
    "numbers as standard input": ({**ROW, "tests": [{"stdin": 1, "stdout": 2}]}, "'stdin' and 'stdout' must be texts"),
    "tests of two kinds": (
        {**ROW, "tests": [{"args": [1, 2], "returns": 3}, "assert add(1, 2)"]},
        "tests are calls and assertions: use one kind",
    ),
    "an assertion that is no Python": ({**ROW, "tests": ["assert add("]}, "test 1 of `tests` is no Python"),
    "an assertion that asserts nothing": ({**ROW, "tests": ["add(1, 2) == 3"]}, "test 1 of `tests` asserts nothing"),
    "an assertion of something else": ({**ROW, "tests": ["assert sub(1, 2)"]}, "assertion 1 uses nothing that"),
    "a completion beside programs": ({**ROW, "completion": ADD}, "has 'completion' and 'correct'"),
    "messages beside a prompt": ({"messages": [], "prompt": "p"}, "has 'messages' and 'prompt'"),
    "messages without an answer": ({"messages": [CHAT]}, "`messages` are of user: give one user message"),
    "a message of nobody": ({"messages": [{"role": "bot", "content": "x"}]}, "message 1 has role 'bot'"),
    "a message without text": ({"messages": [{"role": "user", "content": None}]}, "message 1 has no text"),
    "a time limit of nothing": ({**ROW, "time_limit": 0}, "`time_limit` is 0: give seconds"),
    "a difficulty in words": ({**ROW, "difficulty": "hard"}, "`difficulty` is 'hard': give a whole number"),
}


@pytest.mark.parametrize(("row", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_every_mistake_is_one_line_with_its_row(tmp_path: Path, row: Any, expected: str) -> None:
    with pytest.raises(UserError) as error:
        entries(tmp_path, {**ROW, "id": "good"}, row)
    assert str(error.value).startswith(f"{tmp_path / 'mine.jsonl'} line 2: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_field_that_a_row_does_without_may_be_called_anything(tmp_path: Path) -> None:
    complete = {**ROW, "instruction": "x", "solutions": [], "output": "x"}
    (first, second) = entries(tmp_path, complete, {"prompt": "p", "completion": "c", "solution": "s", "answer": "a"})
    assert [len(first.solutions), len(second.solutions)] == [2, 1]


def test_all_mistakes_of_a_file_are_one_error_with_a_line_for_each(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "correct": ADD}, {**ROW, "id": "c"}, {**ROW, "tests": [3]}, '{"id": ']
    with pytest.raises(UserError) as error:
        entries(tmp_path, *rows)
    heading, *lines = str(error.value).splitlines()
    assert heading == f"{tmp_path / 'mine.jsonl'}: 3 mistakes, so nothing is imported:"
    assert [line.split("mine.jsonl ")[1].split(":")[0] for line in lines] == ["line 2", "line 4", "line 5"]
    with pytest.raises(UserError) as error:
        entries(tmp_path, *[{**ROW, "correct": ADD}] * 30)
    assert str(error.value).splitlines()[-1] == "  and 10 more"


def test_a_mistake_after_the_last_problem_that_is_kept_is_still_one(tmp_path: Path) -> None:
    rows = [{**ROW, "id": name, "split": "test"} for name in "ab"]
    file = written(tmp_path, {**rows[0], "tests": [3]}, *rows)
    with pytest.raises(UserError, match="line 1: test 1"):
        prepare(own_dataset("mine"), tmp_path, file, Options(max_problems=1))


def test_a_misspelt_column_of_parquet_is_told_like_a_field(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"prompt": "Write add.", "solution": ADD}]), tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=r"mine\.parquet: unknown field 'solution'; did you mean 'correct'\?"):
        list(read(tmp_path / "mine.parquet", Reading("mine")))


def test_a_dataset_of_ones_own_is_prepared_like_any_other(tmp_path: Path) -> None:
    manifest, is_new = prepare(own_dataset("mine"), tmp_path, EXAMPLE)
    assert is_new
    assert manifest["splits"] == {
        "validation": {"problems": 1, "correct": 1, "incorrect": 1},
        "test": {"problems": 2, "correct": 2, "incorrect": 2},
        "train": {"problems": 5, "correct": 10, "incorrect": 10},
    }
    assert prepare(own_dataset("mine"), tmp_path, EXAMPLE)[1] is False
    assert untested(tmp_path / "datasets" / "mine" / "test") == []


def test_one_id_twice_is_one_line_with_both_rows(tmp_path: Path) -> None:
    file = written(tmp_path, {**ROW, "split": "train"}, {**ROW, "split": "train"})
    with pytest.raises(UserError, match=r"line 2: problem 'mine/add' is also at .*line 1; remove one"):
        prepare(own_dataset("mine"), tmp_path, file)


def test_a_folder_has_a_file_a_split(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        (folder / f"{name}.jsonl").write_text(json.dumps({**ROW, "id": name, "prompt": f"{name}: add"}) + "\n")
    manifest, _ = prepare(own_dataset("mine", folder), tmp_path, folder)
    assert set(manifest["splits"]) == {"train", "validation", "test"}
    (folder / "test.jsonl").write_text(json.dumps({**ROW, "split": "train"}) + "\n")
    with pytest.raises(UserError, match="`split` is 'train', and it stands in the file of 'test'"):
        prepare(own_dataset("mine", folder), tmp_path, folder)


@pytest.mark.parametrize("name", ["micro", "mbpp", "x-small", "a/b", ""])
def test_a_name_that_is_taken_or_none_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="choose another name"):
        own_dataset(name)
