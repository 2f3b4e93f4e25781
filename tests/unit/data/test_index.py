"""The index says of every solution what the solutions' file says, and is refused where it no longer does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from splits import write_split
from transformers import PreTrainedTokenizerFast

from weighted_mtp.data import index as index_module
from weighted_mtp.data.index import INDEX_FILE, read_index, write_index
from weighted_mtp.data.schema import Problem, Solution
from weighted_mtp.data.tables import PROBLEMS_FILE, SOLUTIONS_FILE
from weighted_mtp.errors import UserError

PROBLEMS = [
    Problem("a", "cc", "train", "add", difficulty=7, rating=800),
    Problem("b", "cc", "train", "subtract"),
    Problem("c", "cc", "train", "without a solution", difficulty=9),
]
SOLUTIONS = [
    Solution("a/0", "a", "print('é…')\n", True),
    Solution("a/1", "a", "", False),
    Solution("a/2", "a", "x = 1\n" * 40, False),
    Solution("b/0", "b", "print(input())", True),
    Solution("b/1", "b", "\tpass", False),
]


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A written split without an index."""
    write_split(tmp_path / "mbpp" / "train", PROBLEMS, SOLUTIONS)
    return tmp_path / "mbpp" / "train"


def test_row_i_describes_solution_i_across_batches(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_BATCH", 2)
    seen: list[int] = []
    assert write_index(split, on_progress=seen.append) == split / INDEX_FILE
    found = read_index(split)
    assert found.problem.tolist() == [0, 0, 0, 1, 1]
    assert found.is_correct.tolist() == [solution.is_correct for solution in SOLUTIONS]
    assert found.length.tolist() == [len(solution.code) for solution in SOLUTIONS]
    assert (found.unit, len(found)) == ("characters", 5)
    assert seen == [2, 2, 1]


def test_what_is_unknown_of_a_problem_is_minus_one(split: Path) -> None:
    write_index(split)
    found = read_index(split)
    assert found.difficulty.tolist() == [7, -1, 9]
    assert found.rating.tolist() == [800, -1, -1]


def test_lengths_are_counted_in_a_tokenizers_tokens(
    split: Path, tmp_path: Path, micro_tokenizer: PreTrainedTokenizerFast
) -> None:
    micro_tokenizer.save_pretrained(tmp_path / "tokenizer")
    write_index(split, tmp_path / "tokenizer")
    found = read_index(split)
    expected = [len(micro_tokenizer.encode(s.code, add_special_tokens=False)) for s in SOLUTIONS]
    assert found.length.tolist() == expected
    assert found.unit == f"tokens of {tmp_path / 'tokenizer'}"


def test_a_split_without_solutions_has_an_empty_index(split: Path) -> None:
    write_split(split, PROBLEMS, [])
    write_index(split)
    found = read_index(split)
    assert (len(found), len(found.difficulty), found.length.dtype) == (0, 3, np.int32)


def test_a_missing_index_names_the_command_that_makes_it(split: Path) -> None:
    with pytest.raises(
        UserError, match=r"index.parquet does not exist: .*wmtp data --datasets mbpp --steps metadata`$"
    ):
        read_index(split)


def test_a_slices_missing_index_is_made_with_the_slice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wmtp data --datasets mbpp --steps small`$"):
        read_index(tmp_path / "mbpp-small" / "train")


@pytest.mark.parametrize("changed", ["problems", "solutions"])
def test_an_index_of_an_earlier_version_of_the_split_is_refused(split: Path, changed: str) -> None:
    write_index(split)
    earlier = (split / INDEX_FILE).read_bytes()
    longer = [replace(PROBLEMS[0], description="add two numbers"), *PROBLEMS[1:]]
    write_split(split, *((longer, SOLUTIONS) if changed == "problems" else (PROBLEMS, SOLUTIONS[:-1])))
    (split / INDEX_FILE).write_bytes(earlier)
    with pytest.raises(UserError, match=r"^[^\n]*not of the split's present files: [^\n]*--steps metadata`$"):
        read_index(split)


def test_the_index_of_a_policys_programs_is_made_with_them(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"`uv run wmtp data --import FILE --name own` or `uv run wmtp label EVALUATION… --name own`$"
    ):
        read_index(tmp_path / "own" / "train")


def test_a_damaged_index_is_one_line(split: Path) -> None:
    data = write_index(split).read_bytes()
    (split / INDEX_FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"^[^\n]*index.parquet is truncated[^\n]*--steps metadata`$"):
        read_index(split)


def test_a_split_without_its_solutions_is_one_line(split: Path) -> None:
    (split / SOLUTIONS_FILE).unlink()
    with pytest.raises(UserError, match=rf"{SOLUTIONS_FILE} does not exist: .*wmtp data --datasets mbpp`$"):
        write_index(split)


def test_a_solution_without_its_problem_is_named(split: Path) -> None:
    write_split(split, PROBLEMS[:1], SOLUTIONS)
    with pytest.raises(UserError, match=rf"{SOLUTIONS_FILE}: problem 'b' is not in {PROBLEMS_FILE}"):
        write_index(split)


def test_solutions_in_another_order_than_their_problems_are_refused(split: Path) -> None:
    write_split(split, PROBLEMS, SOLUTIONS[::-1])
    with pytest.raises(UserError, match=r"not in the order of problems.parquet"):
        write_index(split)


def test_a_folder_without_a_tokenizer_is_one_line_and_leaves_no_index(split: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^[^\n]*empty: no readable tokenizer: [^\n]*$"):
        write_index(split, tmp_path / "empty")
    assert not (split / INDEX_FILE).exists()


def test_a_tokenizer_that_cannot_be_fetched_is_one_line(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^org/name: http://127.0.0.1:9 cannot be reached [^\n]*give --tokenizer DIR$"):
        write_index(split, "org/name")
    assert not (split / INDEX_FILE).exists()
