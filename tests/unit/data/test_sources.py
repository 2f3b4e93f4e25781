"""Upstream's files: the one reader of every form, and the readers of HumanEval, MBPP, GSM8K and CodeContests."""

import gzip
import io
import json
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from splits import write_split

from weighted_mtp.data.schema import Entry, Records, TestCase, records
from weighted_mtp.data.sources import codecontests, gsm8k, humaneval, mbpp
from weighted_mtp.data.sources.rows import Reading, read_rows
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.errors import UserError

COLUMNS = {"id": int, "text": str}
LINES = [{"id": 1, "text": "é"}, {"id": 2, "text": "b"}]


def _write(path: Path, *lines: str | dict[str, Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


FORMS = {
    "json lines": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    "gzip": lambda rows: gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()),
    "array": lambda rows: json.dumps(rows, indent=1).encode(),
    "json lines with a BOM": lambda rows: BOM_UTF8 + FORMS["json lines"](rows),
    "gzip with a BOM": lambda rows: gzip.compress(BOM_UTF8 + FORMS["json lines"](rows)),
    "array with a BOM": lambda rows: BOM_UTF8 + FORMS["array"](rows),
    "gzipped array": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "parquet": _parquet,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_file_reads_alike_whatever_its_name(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.data"
    path.write_bytes(FORMS[form](LINES * 20))
    rows = list(read_rows(path, COLUMNS))
    assert [row.values for row in rows] == LINES * 20
    assert [row.line for row in rows] == list(range(1, 41))


@pytest.mark.parametrize("form", ["json lines", "gzip", "parquet"])
def test_progress_adds_up_to_the_files_bytes(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(FORMS[form](LINES * 30))
    told: list[int] = []
    list(read_rows(path, COLUMNS, told.append))
    assert sum(told) == path.stat().st_size


def test_rows_come_one_by_one_before_the_file_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", LINES[0], "broken")
    rows = read_rows(path, COLUMNS)
    assert next(rows).values == LINES[0]
    with pytest.raises(UserError, match="line 2: broken JSON"):
        next(rows)


def test_blank_lines_are_skipped_but_counted(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", LINES[0], "", LINES[1])
    assert [(row.line, row.values) for row in read_rows(path, COLUMNS)] == [(1, LINES[0]), (3, LINES[1])]


def test_a_line_separator_inside_a_string_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": "a\u2028b"}\n', encoding="utf-8")
    assert next(read_rows(path, COLUMNS))["text"] == "a\u2028b"


def test_columns_that_may_be_null_may_also_be_absent(tmp_path: Path) -> None:
    rows = read_rows(_write(tmp_path / "a.jsonl", {"id": None}), {"id": int | None, "text": str | None})
    assert [(row["id"], row["text"]) for row in rows] == [(None, None)]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"id": 2, "text": ', r"line 2: broken JSON \(.* at column 19\); fix it, .*, or fetch the file again"),
        ("[" * 100_000, r"line 2: broken JSON \(.*\); fix it, .*, or fetch the file again"),
        ('{"id": ' + "1" * 5_000 + "}", r"line 2: broken JSON \(.*\); fix it, .*, or fetch the file again"),
        ("[1]", "line 2: a JSON list; every row must be one JSON object"),
        ({"id": 2}, r"line 2: no column 'text' \(it has id\); give the file in its upstream form"),
        ({"id": 2, "text": None}, "line 2: column 'text' is null, which is not a string; give"),
        ({"id": "2", "text": "b"}, "line 2: column 'id' is \"2\", which is not an integer; give"),
        ('{"id": 2, "text": "\\ud800"}', "line 2: holds half of a surrogate pair, which is no text; fix it"),
    ],
    ids=str,
)
def test_a_bad_line_is_one_message_with_file_line_and_remedy(
    tmp_path: Path, second: str | dict[str, Any], message: str
) -> None:
    path = _write(tmp_path / "a.jsonl", LINES[0], second)
    with pytest.raises(UserError, match=rf"^[^\n]*a\.jsonl {message}[^\n]*$"):
        list(read_rows(path, COLUMNS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"id": 1, "text": "a"},\n 2]', "item 2: a JSON int; every row must be one JSON object"),
        (
            b'[{"id": 1, "text": "a"},\n {"id": 2',
            r"broken JSON \(.* at line 2 column 10\); fix it",
        ),
    ],
)
def test_a_bad_array_is_one_message(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^[^\n]*a\.json:? {message}[^\n]*$"):
        list(read_rows(path, COLUMNS))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1}], r"row 1: no column 'text' \(it has id\); give"),
        ([{"id": 1, "text": 2}], "row 1: column 'text' is 2, which is not a string; give"),
        ([{"id": 1, "text": "a"}, {"id": None, "text": "a"}], "row 2: column 'id' is null, which is not an integer"),
    ],
)
def test_a_bad_row_of_parquet_is_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(_parquet(rows))
    with pytest.raises(UserError, match=rf"^[^\n]*a\.parquet {message}[^\n]*$"):
        list(read_rows(path, COLUMNS))


def test_text_that_is_not_utf8_is_located(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": 1, "text": "a"}\n{"id": 2, "text": "\xe9"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl line 2: not UTF-8 \(byte 0xe9\); convert the file to UTF-8"):
        list(read_rows(path, COLUMNS))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]", gzip.compress(b""), _parquet([{"id": 1, "text": ""}][:0])])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jsonl is empty"):
        list(read_rows(path, COLUMNS))


@pytest.mark.parametrize(("form", "kept"), [("gzip", 0.5), ("gzip", 0.98), ("parquet", 0.5), ("parquet", 0.98)])
def test_a_truncated_file_is_refused(tmp_path: Path, form: str, kept: float) -> None:
    path = tmp_path / "a"
    data = FORMS[form](LINES)
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UserError, match=r"^[^\n]*/a is truncated or damaged \([^\n]*\): write it or fetch it again$"):
        list(read_rows(path, COLUMNS))


@pytest.mark.parametrize(("name", "message"), [("none", "none does not exist"), (".", "cannot be read")])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(read_rows(tmp_path / name, COLUMNS))


@pytest.fixture(scope="module")
def humaneval_records(shared: Path) -> Records:
    return records(humaneval.read(shared / "humaneval" / "HumanEval.jsonl.gz"))


@pytest.fixture(scope="module")
def mbpp_records(shared: Path) -> Records:
    return records(mbpp.read(shared / "mbpp" / "mbpp.jsonl.gz"))


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
        list(humaneval.read(_write(tmp_path / "h.jsonl", _humaneval_row(**changes))))


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
        list(mbpp.read(_write(tmp_path / "m.jsonl", _mbpp_row(task_id=975))))


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
    (entry,) = mbpp.read(_write(tmp_path / "m.jsonl", _mbpp_row(code=code, test_list=asserts)))
    assert entry.problem.entry_point == entry_point


def test_real_records_survive_the_disk(mbpp_records: Records, humaneval_records: Records, tmp_path: Path) -> None:
    for found in (mbpp_records, humaneval_records):
        write_split(tmp_path / "dataset" / "split", *found)
        assert read_problems(tmp_path / "dataset" / "split") == found[0]
        assert read_solutions(tmp_path / "dataset" / "split") == found[1]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("humaneval/HumanEval", humaneval.read),
        ("mbpp/mbpp", mbpp.read),
        ("gsm8k/test", gsm8k.read),
        ("codecontests_pairs/test", codecontests.read),
    ],
)
def test_the_hubs_parquet_gives_the_same_records_as_the_authors_file(
    shared: Path, tmp_path: Path, name: str, read: Any
) -> None:
    lines = gzip.decompress((shared / f"{name}.jsonl.gz").read_bytes()).decode().splitlines()
    path = tmp_path / "test-00000-of-00001.parquet"
    path.write_bytes(_parquet([json.loads(line) for line in lines]))
    assert records(read(path)) == records(read(shared / f"{name}.jsonl.gz"))


def _gsm8k(tmp_path: Path, answer: str) -> Entry:
    (entry,) = gsm8k.read(_write(tmp_path / "g.jsonl", {"question": " Why? ", "answer": answer}), Reading(split="test"))
    return entry


def test_a_gsm8k_answer_loses_the_calculators_annotations(tmp_path: Path) -> None:
    entry = _gsm8k(tmp_path, "48/2 = <<48/2=24>>24 clips.\r\nSum: $<<24+48=72>>72\n#### 1,072")
    assert entry.solutions[0].code == "48/2 = 24 clips.\nSum: $72\n#### 1,072"
    assert entry.solutions[0].language == "text"
    assert entry.problem.tests == (TestCase("answer", "", "1072"),)
    assert (entry.problem.problem_id, entry.problem.description) == ("gsm8k/test/0", "Why?")


@pytest.mark.parametrize(("end", "number"), [("#### -5", "-5"), ("#### 0.25", "0.25"), ("####7 ", "7")])
def test_a_gsm8k_number_may_have_a_sign_and_decimals(tmp_path: Path, end: str, number: str) -> None:
    assert _gsm8k(tmp_path, f"so\n{end}").problem.tests[0].output == number


@pytest.mark.parametrize("answer", ["", "so 7", "#### seven", "#### 7\nor not"])
def test_a_gsm8k_answer_without_a_final_number_is_named(tmp_path: Path, answer: str) -> None:
    with pytest.raises(
        UserError, match=r"^[^\n]*g\.jsonl line 1: the answer ends with [^\n]*, not with #### and a number"
    ):
        _gsm8k(tmp_path, answer)


def test_gsm8k_has_7473_and_1319_problems_each_with_a_number(shared: Path) -> None:
    for split, size in (("train", 7_473), ("test", 1_319)):
        problems, solutions = records(gsm8k.read(shared / "gsm8k" / f"{split}.jsonl.gz", Reading(split=split)))
        assert len({problem.problem_id for problem in problems}) == len(solutions) == size
        assert all(float(problem.tests[0].output) == float(problem.tests[0].output) for problem in problems)
        assert not any("<<" in solution.code or ">>" in solution.code for solution in solutions)


def _contest_row(**changes: Any) -> dict[str, Any]:
    row = {
        "name": "1000_E. We Need More Bosses",
        "description": "n locations\r\n",
        "public_tests": {"input": ["1\r\n"], "output": ["2\n"]},
        "private_tests": {"input": [], "output": []},
        "generated_tests": None,
        "source": 2,
        "difficulty": 11,
        "solutions": {"language": [3], "solution": ["print(2)"]},
        "incorrect_solutions": {"language": [3], "solution": ["print(3)"]},
        "cf_rating": 2100,
        "time_limit": {"seconds": 2, "nanos": 500_000_000},
        "memory_limit_bytes": 256_000_000,
        "input_file": "",
        "output_file": "",
    }
    return {**row, **changes}


def _programs(*programs: tuple[int, str]) -> dict[str, list[Any]]:
    return {"language": [language for language, _ in programs], "solution": [code for _, code in programs]}


def _contest(tmp_path: Path, reading: Reading | None = None, **changes: Any) -> Entry:
    path = _write(tmp_path / "c.jsonl", _contest_row(**changes))
    (entry,) = codecontests.read(path, reading or Reading("codecontests", "train"))
    return entry


def test_a_contest_problem_keeps_difficulty_rating_limits_and_tests_apart(tmp_path: Path) -> None:
    problem = _contest(tmp_path, generated_tests={"input": ["9"], "output": ["8"]}).problem
    assert problem.problem_id == "codecontests/codeforces/1000_E. We Need More Bosses"
    assert (problem.source, problem.split, problem.description) == ("codecontests", "train", "n locations")
    assert (problem.difficulty, problem.rating, problem.time_limit) == (11, 2100, 2.5)
    assert problem.memory_limit == 256_000_000
    assert problem.tests == (TestCase("stdio", "1\n", "2\n", "public"), TestCase("stdio", "9", "8", "generated"))


@pytest.mark.parametrize("unknown", [0, None])
def test_zero_and_null_are_unknown(tmp_path: Path, unknown: int | None) -> None:
    limit = unknown if unknown is None else {"seconds": 0, "nanos": 0}
    problem = _contest(
        tmp_path, difficulty=unknown, cf_rating=unknown, time_limit=limit, memory_limit_bytes=unknown
    ).problem
    assert (problem.difficulty, problem.rating, problem.time_limit, problem.memory_limit) == (-1, None, None, None)


def test_a_problem_without_a_statement_says_so(tmp_path: Path) -> None:
    problem = _contest(tmp_path, name="abc221_f", source=5, description=None).problem
    assert problem.description == "AtCoder task abc221_f (its statement is not in the dataset)"


def _codes(entry: Entry) -> list[tuple[str, bool, str]]:
    return [(solution.code, solution.is_correct, solution.language) for solution in entry.solutions]


def test_solutions_of_the_chosen_languages_stay_in_upstreams_order(tmp_path: Path) -> None:
    entry = _contest(
        tmp_path,
        Reading("codecontests", "train", ("python3", "java")),
        solutions=_programs((3, "b"), (2, "c"), (4, "J"), (1, "p"), (0, "?"), (9, "!"), (3, "a")),
        incorrect_solutions=_programs((4, "W")),
    )
    assert _codes(entry) == [
        ("b", True, "python3"), ("J", True, "java"), ("a", True, "python3"), ("W", False, "java")
    ]  # fmt: skip
    assert [solution.solution_id.rsplit("/", 2)[1:] for solution in entry.solutions] == [
        ["correct", "0"], ["correct", "2"], ["correct", "6"], ["incorrect", "0"]
    ]  # fmt: skip
    assert entry.dropped == {"solution in another language": 4}


def test_repeated_long_and_contradictory_solutions_are_dropped_and_counted(tmp_path: Path) -> None:
    entry = _contest(
        tmp_path,
        Reading("codecontests", "train", max_solution_characters=10),
        solutions=_programs((3, "a\r\nb"), (3, "a\nb"), (3, "both"), (3, "x" * 11), (3, "y" * 10)),
        incorrect_solutions=_programs((3, "both"), (3, "both"), (3, "w")),
    )
    assert [code for code, _, _ in _codes(entry)] == ["a\nb", "y" * 10, "w"]
    assert entry.dropped == {
        "solution repeated in its problem": 2,
        "solution longer than 10 characters": 1,
        "solution labelled both correct and incorrect": 2,
    }
    assert len(entry.solutions) + entry.dropped.total() == 8


def test_the_same_text_in_two_languages_is_two_programs(tmp_path: Path) -> None:
    entry = _contest(
        tmp_path,
        Reading("codecontests", "train", ("python2", "python3")),
        solutions=_programs((1, "print 1")),
        incorrect_solutions=_programs((3, "print 1")),
    )
    assert _codes(entry) == [("print 1", True, "python2"), ("print 1", False, "python3")]


def test_a_solution_of_a_megabyte_is_dropped_or_kept_as_asked(tmp_path: Path) -> None:
    program = _programs((3, "x = 1\n" * 200_000))
    assert _contest(tmp_path, solutions=program).dropped == {"solution longer than 100000 characters": 1}
    kept = _contest(tmp_path, Reading("c", "train", max_solution_characters=2_000_000), solutions=program)
    assert len(kept.solutions[0].code) == 1_200_000


def test_a_problem_with_a_named_file_is_left_out(tmp_path: Path) -> None:
    assert _contest(tmp_path, input_file="input.txt").left_out == "problem that reads or writes a named file"
    assert not _contest(tmp_path).left_out


def test_origins_are_the_rows_own_or_the_readers(tmp_path: Path) -> None:
    entry = _contest(tmp_path, solutions_origin=["human"], incorrect_solutions_origin=["mutant:compare"])
    assert [solution.origin for solution in entry.solutions] == ["human", "mutant:compare"]
    (entry,) = codecontests.read(_write(tmp_path / "c.jsonl", _contest_row()), origin="model")
    assert [solution.origin for solution in entry.solutions] == ["model", "model"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"public_tests": {"input": ["1"], "output": []}}, "column 'public_tests' must hold input, output as lists of"),
        ({"solutions": {"language": [3]}}, "column 'solutions' must hold language, solution, origin as lists of one"),
        ({"solutions": _programs((3, 7))}, "column 'solutions' has '7' among 'solution', which is no str"),  # type: ignore[arg-type]
        ({"solutions_origin": ["a", "b"]}, "column 'solutions' must hold language, solution, origin as lists of one"),
        ({"solutions": None}, "column 'solutions' is null, which is not an object"),
        ({"difficulty": "hard"}, "column 'difficulty' is \"hard\", which is not an integer or null"),
    ],
)
def test_lists_that_do_not_match_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^[^\n]*c\.jsonl line 1: {message}[^\n]*give the file in its upstream form$"):
        _contest(tmp_path, **changes)


def test_a_file_of_several_splits_is_parted_by_a_hash_of_the_name_alone(tmp_path: Path) -> None:
    def splits(dataset: str, names: Iterable[int]) -> dict[str, str]:
        path = _write(tmp_path / "c.jsonl", *(_contest_row(name=f"task {n}") for n in names))
        return {e.problem.problem_id.split("/")[-1]: e.problem.split for e in codecontests.read(path, Reading(dataset))}

    found = splits("a", range(2_000))
    shares = Counter(found.values())
    assert {split: round(n / 2_000, 1) for split, n in shares.items()} == {"train": 0.8, "validation": 0.1, "test": 0.1}
    assert splits("b", reversed(range(2_000))) == found


def test_the_real_contest_files_are_read_whole(shared: Path) -> None:
    def count(file: str) -> tuple[int, Counter[bool], Counter[str]]:
        entries = list(codecontests.read(shared / f"{file}.jsonl.gz"))
        dropped: Counter[str] = sum((entry.dropped for entry in entries), Counter())
        return len(entries), Counter(s.is_correct for e in entries for s in e.solutions), dropped

    assert count("codecontests/train") == (315, {True: 315}, {})
    assert count("codecontests/test") == (142, {}, {"solution in another language": 825})
    assert count("codecontests_pairs/train") == (254, {True: 254, False: 1_220}, {})
    assert count("llm_pairs/apps") == (49, {True: 84, False: 430}, {})
    assert count("condefects/python_pairs") == (
        594, {True: 1_573, False: 1_574}, {"solution repeated in its problem": 3}
    )  # fmt: skip
