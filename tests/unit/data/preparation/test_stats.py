"""Numbers of a split against a slow, obvious count; the slice; verdicts of a split's own solutions."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from splits import write_split

from weighted_mtp.data.preparation.config import SliceOptions
from weighted_mtp.data.preparation.stats import LENGTH_BINS, split_stats, write_stats
from weighted_mtp.data.preparation.subsets import choose_problems, write_slice
from weighted_mtp.data.schema import Problem, Solution, TestCase
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.errors import UserError
from weighted_mtp.manifest import read_manifest, write_manifest


def _dataset(folder: Path, n: int = 60) -> tuple[list[Problem], list[Solution]]:
    """A prepared dataset with one split, of problems with 0 to 4 solutions of each label."""
    draw = random.Random(0)
    problems = [
        Problem(
            f"d/{i}",
            "d",
            "train",
            "x",
            difficulty=draw.choice([-1, 7, 7, 7, 9]),
            rating=draw.choice([None, 2_000]),
            tests=tuple(TestCase("stdio", "", "1", draw.choice(["public", "private"])) for _ in range(i % 4)),
        )
        for i in range(n)
    ]
    solutions = [
        Solution(f"{p.problem_id}/{label}/{j}", p.problem_id, "é" * draw.randrange(1, 300), label, origin=str(j % 2))
        for p in problems
        for label in (True, False)
        for j in range(draw.randrange(5))
    ]
    write_split(folder / "train", problems, solutions)
    counts = {
        "problems": n,
        "correct": sum(s.is_correct for s in solutions),
        "incorrect": sum(not s.is_correct for s in solutions),
    }
    write_manifest(folder, {"dataset": folder.name, "only_evaluation": False, "splits": {"train": counts}})
    return problems, solutions


def test_the_numbers_are_those_of_a_plain_count(tmp_path: Path) -> None:
    problems, solutions = _dataset(tmp_path / "d")
    found = split_stats(tmp_path / "d" / "train")
    of = {label: Counter(s.problem_id for s in solutions if s.is_correct is label) for label in (True, False)}
    assert (found["problems"], found["correct"], found["incorrect"]) == (60, of[True].total(), of[False].total())
    assert found["pairs"] == sum(min(of[True][p.problem_id], of[False][p.problem_id]) for p in problems)
    assert found["with_both_labels"] == sum(p.problem_id in of[True] and p.problem_id in of[False] for p in problems)
    assert found["difficulty"] == {str(k): n for k, n in sorted(Counter(p.difficulty for p in problems).items())}
    assert found["with_rating"] == sum(p.rating is not None for p in problems)
    assert found["tests"] == Counter(test.visibility for p in problems for test in p.tests)
    assert found["tests_per_problem"]["mean"] == 1.5
    assert found["languages"] == {"python3": len(solutions)}
    assert found["origins"] == Counter(s.origin for s in solutions)
    for label, name in ((True, "correct"), (False, "incorrect")):
        lengths = [len(s.code) for s in solutions if s.is_correct is label]
        assert found["length"][name]["median"] == np.median(lengths)
        assert found["length"][name]["max"] == max(lengths)
        assert found["length"][name]["histogram"] == np.histogram(lengths, LENGTH_BINS)[0].tolist()
        assert found["solutions_per_problem"][name]["max"] == max(of[label].values())


def test_a_split_without_solutions_or_tests_has_numbers(tmp_path: Path) -> None:
    write_split(tmp_path / "train", [Problem("a", "d", "train", "x")], [])
    found = split_stats(tmp_path / "train")
    assert (found["problems"], found["correct"], found["pairs"], found["tests"]) == (1, 0, 0, {})
    assert sum(found["length"]["correct"]["histogram"]) == 0


def test_a_program_longer_than_the_last_bin_is_in_it(tmp_path: Path) -> None:
    write_split(tmp_path / "train", [Problem("a", "d", "train", "x")], [Solution("s", "a", "x" * 2_000_000, True)])
    assert split_stats(tmp_path / "train")["length"]["correct"]["histogram"][-1] == 1


def test_stats_are_counted_again_only_for_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    problems, _ = _dataset(folder)
    first, is_new = write_stats(folder)
    assert is_new
    write_manifest(folder, read_manifest(folder) or {})
    assert write_stats(folder) == (first, False)
    write_split(folder / "train", problems, [])
    write_manifest(folder, read_manifest(folder) or {})
    second, is_new = write_stats(folder)
    assert is_new
    assert second["train"]["correct"] == 0


def test_stats_of_what_is_not_prepared_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"/mbpp is not prepared: make it with `uv run wmtp data --datasets mbpp` first$"
    ):
        write_stats(tmp_path / "mbpp")


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=80), st.integers(1, 90), st.integers(0, 3))
def test_a_slice_keeps_each_difficultys_share(difficulty: list[int], most: int, seed: int) -> None:
    levels = np.asarray(difficulty, dtype=np.int32)
    rows = choose_problems(levels, most, np.random.default_rng(seed))
    assert len(rows) == min(most, len(levels))
    assert (np.diff(rows) > 0).all()
    share = min(most / len(levels), 1.0)
    for level, size in Counter(difficulty).items():
        assert abs(np.sum(levels[rows] == level) - share * size) < 1.0


def test_a_slice_is_a_subset_in_order_with_few_solutions(tmp_path: Path) -> None:
    problems, solutions = _dataset(tmp_path / "d")
    manifest, is_new = write_slice(tmp_path / "d", SliceOptions(max_problems=20, max_solutions=2))
    assert is_new
    split = tmp_path / "d-small" / "train"
    kept, programs = read_problems(split), read_solutions(split)
    assert kept == [p for p in problems if p in kept]
    assert programs == [s for s in solutions if s in programs]
    assert {s.problem_id for s in programs} <= {p.problem_id for p in kept}
    of = Counter((s.problem_id, s.is_correct) for s in solutions)
    found = Counter((s.problem_id, s.is_correct) for s in programs)
    for problem in kept:
        for label in (True, False):
            assert found[problem.problem_id, label] == min(2, of[problem.problem_id, label])
    assert manifest["splits"]["train"]["problems"] == 20
    assert {"train/problems.parquet", "train/solutions.parquet", "train/index.parquet"} == manifest["files"].keys()


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_slice_is_a_function_of_its_seed_and_made_once(tmp_path: Path) -> None:
    _dataset(tmp_path / "d")
    options = SliceOptions(max_problems=20, max_solutions=2)
    write_slice(tmp_path / "d", options)
    first = _bytes(tmp_path / "d-small")
    assert write_slice(tmp_path / "d", options)[1] is False
    assert write_slice(tmp_path / "d", options.model_copy(update={"seed": 1}))[1] is True
    assert _bytes(tmp_path / "d-small")["train/problems.parquet"] != first["train/problems.parquet"]
    write_slice(tmp_path / "d", options)
    assert _bytes(tmp_path / "d-small") == first


def test_a_slice_of_evaluation_splits_alone_is_refused(tmp_path: Path) -> None:
    _dataset(tmp_path / "mbpp")
    write_manifest(tmp_path / "mbpp", {**(read_manifest(tmp_path / "mbpp") or {}), "only_evaluation": True})
    with pytest.raises(
        UserError, match=r"holds its evaluation splits only: run `uv run wmtp data --datasets mbpp --steps"
    ):
        write_slice(tmp_path / "mbpp", SliceOptions())
