"""Records on disk: a lossless round trip, whole or not at all, and one line for what is wrong with a file."""

import resource
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from splits import write_split

from weighted_mtp.data import tables
from weighted_mtp.data.schema import Entry, Problem, Solution, Span, TestCase, records
from weighted_mtp.data.tables import (
    PROBLEMS_FILE,
    SOLUTIONS_FILE,
    SplitWriter,
    read_problems,
    read_solutions,
    read_statements,
    read_verdicts,
    stream_problems,
    stream_solutions,
)
from weighted_mtp.errors import UserError

PROBLEM = Problem(
    problem_id="1000_E. We Need More Bosses",
    source="codecontests",
    split="train",
    description="n locations\nconnected by m ways ≤ 3·10^5",
    difficulty=11,
    rating=2100,
    tests=(
        TestCase("stdio", "5 5\n1 2\n", "2\n", "public"),
        TestCase("stdio", "", "0", "private"),
        TestCase("stdio", "1\n", "1", "generated"),
        TestCase("call", "(1,)", "0.5", "generated", "plus", 1e-6),
    ),
    time_limit=2.5,
    memory_limit=256_000_000,
)
SOLUTIONS = [
    Solution("a", PROBLEM.problem_id, "print('é')\n", True),
    Solution("b", PROBLEM.problem_id, "int main(){}", False, language="cpp", spans=(Span("wrong", 0, 3),)),
]


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    bare = replace(PROBLEM, problem_id="bare", rating=None, tests=(), time_limit=None, memory_limit=None)
    write_split(tmp_path / "cc" / "train", [PROBLEM, bare], SOLUTIONS)
    assert read_problems(tmp_path / "cc" / "train") == [PROBLEM, bare]
    assert read_solutions(tmp_path / "cc" / "train") == SOLUTIONS


def test_problems_and_solutions_are_streamed_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ROW_GROUP", 3)
    problems = [replace(PROBLEM, problem_id=str(i)) for i in range(10)]
    solutions = [replace(SOLUTIONS[0], solution_id=str(i), problem_id=str(i)) for i in range(10)]
    write_split(tmp_path / "cc" / "train", problems, solutions)
    assert pq.ParquetFile(tmp_path / "cc" / "train" / PROBLEMS_FILE).num_row_groups == 4
    for rows in ([*range(10)], [0], [9], [2, 3], [0, 1, 6, 9], []):
        assert list(stream_problems(tmp_path / "cc" / "train", rows)) == [problems[row] for row in rows]
        assert list(stream_solutions(tmp_path / "cc" / "train", rows)) == [solutions[row] for row in rows]


def test_writing_again_replaces_the_whole_split_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_split(tmp_path / "cc" / "train", [PROBLEM], SOLUTIONS)
    write_split(tmp_path / "cc" / "train", [replace(PROBLEM, difficulty=7)], [])
    assert [problem.difficulty for problem in read_problems(tmp_path / "cc" / "train")] == [7]
    assert read_solutions(tmp_path / "cc" / "train") == []
    assert [path.name for path in (tmp_path / "cc").iterdir()] == ["train"]


def test_a_failure_while_writing_keeps_the_old_split_and_leaves_no_other_file(tmp_path: Path) -> None:
    def breaks() -> Iterator[Solution]:
        yield SOLUTIONS[0]
        raise RuntimeError("source broke")

    write_split(tmp_path / "cc" / "train", [PROBLEM], SOLUTIONS)
    with pytest.raises(RuntimeError):
        write_split(tmp_path / "cc" / "train", [replace(PROBLEM, difficulty=7)], breaks())
    assert read_problems(tmp_path / "cc" / "train") == [PROBLEM]
    assert [path.name for path in (tmp_path / "cc").iterdir()] == ["train"]


def test_no_room_left_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)  # a limit on file size stands in for a full disk
    noise = "".join(f"{number * 2654435761 % 2**32:x}" for number in range(20_000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match=r"^cannot write .*/train: .*; make room[^\n]*$"):
            write_split(tmp_path / "cc" / "train", [replace(PROBLEM, description=noise)], [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cc").iterdir()) == []


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cc").write_text("in the way")
    with pytest.raises(UserError, match=r"^cannot write .*/cc/train: [^\n]*$"):
        write_split(tmp_path / "cc" / "train", [PROBLEM], [])


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mbpp/train/problems.parquet does not exist: .*wmtp data --datasets mbpp`"):
        read_problems(tmp_path / "mbpp" / "train")


def test_a_missing_column_is_named_with_those_present(tmp_path: Path) -> None:
    row = asdict(SOLUTIONS[0])
    del row["is_correct"]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / SOLUTIONS_FILE)
    with pytest.raises(UserError, match=r"no column 'is_correct', its columns are solution_id, [^\n]*: delete it and"):
        read_solutions(tmp_path)


def test_a_column_of_another_type_is_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{**asdict(SOLUTIONS[0]), "is_correct": "maybe"}]), tmp_path / SOLUTIONS_FILE)
    with pytest.raises(UserError, match=r"^[^\n]*damaged or of another kind[^\n]*$"):
        read_solutions(tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 0.5, 0.99])
def test_a_truncated_file_is_said_to_be_truncated(tmp_path: Path, kept: float) -> None:
    write_split(tmp_path / "mbpp" / "train", [PROBLEM], SOLUTIONS)
    path = tmp_path / "mbpp" / "train" / SOLUTIONS_FILE
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(UserError, match=r"^[^\n]*solutions.parquet is truncated[^\n]*wmtp data --datasets mbpp`$"):
        read_solutions(path.parent)


def test_a_split_without_problems_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path / "mbpp" / "train", [], [])
    with pytest.raises(UserError, match=rf"{PROBLEMS_FILE} holds no problem"):
        read_problems(tmp_path / "mbpp" / "train")


def test_a_missing_slice_names_the_steps_that_make_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wmtp data --datasets mbpp --steps process,small`"):
        read_problems(tmp_path / "mbpp-small" / "train")


def test_records_of_entries_leave_out_what_is_to_be_left_out() -> None:
    entries = [Entry(PROBLEM, SOLUTIONS, "a"), Entry(replace(PROBLEM, problem_id="b"), [], "b", left_out="why")]
    assert records(entries) == ([PROBLEM], SOLUTIONS)


def test_chosen_rows_come_in_the_order_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ROW_GROUP", 3)
    solutions = [replace(SOLUTIONS[0], solution_id=str(number)) for number in range(8)]
    write_split(tmp_path / "cc" / "train", [PROBLEM], solutions)
    for rows in ([7, 0, 3], [2], [], [1, 1, 6]):
        assert [s.solution_id for s in read_solutions(tmp_path / "cc" / "train", rows)] == [str(row) for row in rows]


def test_chosen_problems_come_in_the_order_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ROW_GROUP", 2)
    write_split(tmp_path / "cc" / "train", [replace(PROBLEM, problem_id=str(number)) for number in range(5)], [])
    assert [p.problem_id for p in read_problems(tmp_path / "cc" / "train", [4, 0])] == ["4", "0"]
    assert read_problems(tmp_path / "cc" / "train", []) == []


def test_verdicts_are_those_of_the_solutions_in_order(tmp_path: Path) -> None:
    write_split(tmp_path / "cc" / "train", [PROBLEM], SOLUTIONS)
    assert list(read_verdicts(tmp_path / "cc" / "train")) == [(s.problem_id, s.is_correct) for s in SOLUTIONS]


def test_much_text_makes_small_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ROW_GROUP_CHARACTERS", 30)
    solutions = [replace(SOLUTIONS[0], solution_id=str(n), code="x" * 20) for n in range(6)]
    write_split(tmp_path / "cc" / "train", [PROBLEM], solutions)
    with pq.ParquetFile(tmp_path / "cc" / "train" / SOLUTIONS_FILE) as file:
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 2, 2]
    assert read_solutions(tmp_path / "cc" / "train") == solutions


def test_a_writer_counts_what_it_wrote(tmp_path: Path) -> None:
    with SplitWriter(tmp_path) as writer:
        writer.add(PROBLEM, SOLUTIONS)
        writer.add(replace(PROBLEM, problem_id="b"), [replace(SOLUTIONS[1], problem_id="b")])
    assert writer.counts == {"problems": 2, "correct": 1, "incorrect": 2}


def test_statements_come_with_the_tests_that_prompts_show_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_ROW_GROUP", 2)
    shown, hidden = TestCase("code", "", "assert f(1)", "public"), TestCase("code", "", "assert f(2)", "generated")
    stdio = TestCase("stdio", "1", "2", "public")
    tests = [(), (stdio, stdio), (shown, hidden), (stdio, shown), (hidden,)]
    problems = [replace(PROBLEM, problem_id=str(number), tests=of) for number, of in enumerate(tests)]
    write_split(tmp_path / "cc" / "train", problems, [])
    found = read_statements(tmp_path / "cc" / "train")
    assert [problem.tests for problem in found] == [(), (), (shown,), (shown,), ()]
    assert [replace(problem, tests=()) for problem in found] == [replace(problem, tests=()) for problem in problems]


def test_statements_of_an_empty_split_are_refused(tmp_path: Path) -> None:
    write_split(tmp_path / "cc" / "train", [], [])
    with pytest.raises(UserError, match=rf"{PROBLEMS_FILE} holds no problem"):
        read_statements(tmp_path / "cc" / "train")


def test_a_file_from_before_tests_had_a_suite_and_a_tolerance_is_read_with_their_defaults(tmp_path: Path) -> None:
    old = replace(PROBLEM, tests=PROBLEM.tests[:3])
    write_split(tmp_path, [old], [])
    table = pq.read_table(tmp_path / PROBLEMS_FILE)
    tests = [
        [{k: t[k] for k in ("kind", "input", "output", "visibility")} for t in row]
        for row in table["tests"].to_pylist()
    ]
    number = table.schema.get_field_index("tests")
    pq.write_table(table.set_column(number, "tests", pa.array(tests)), tmp_path / PROBLEMS_FILE)
    assert read_problems(tmp_path) == [old]
