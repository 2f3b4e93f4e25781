"""A split's own solutions against its tests: what is run, what is not and why, and what contradicts its label."""

from pathlib import Path

import pytest
from splits import write_split

from weighted_mtp import sandbox
from weighted_mtp.data.schema import Problem, Solution, TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.check_labels import check_verdicts

TESTS = (TestCase("stdio", "2\n", "4\n"), TestCase("stdio", "3\n", "9\n"))
SQUARE, DOUBLE = "print(int(input()) ** 2)", "print(int(input()) * 2)"


def _split(folder: Path, solutions: list[Solution], tests: tuple[TestCase, ...] = TESTS) -> Path:
    names = dict.fromkeys(solution.problem_id for solution in solutions)
    write_split(folder / "test", [Problem(name, "d", "test", "x", tests=tests) for name in names], solutions)
    return folder / "test"


def _solution(number: int, code: str, is_correct: bool, language: str = "python3") -> Solution:
    return Solution(f"p/{number}", "p", code, is_correct, language)


def test_labels_are_compared_with_what_programs_do(tmp_path: Path) -> None:
    split = _split(
        tmp_path,
        [
            _solution(0, SQUARE, True),
            _solution(1, DOUBLE, True),
            _solution(2, DOUBLE, False),
            _solution(3, SQUARE, False),
            _solution(4, "print(", False),
            _solution(5, "int main(){}", True, "cpp"),
        ],
    )
    told: list[int] = []
    found = check_verdicts(split, "codecontests", most=10, workers=1, on_progress=told.append)
    assert (found.correct, found.passed, found.incorrect, found.failed) == (2, 1, 3, 2)
    assert found.not_run == {"cpp, not Python 3": 1}
    assert found.disagreements == ["p/1: failed: test 2: printed '6\\n', expected '9\\n'", "p/3: passed"]
    assert sum(told) == 6


@pytest.mark.parametrize(("n_correct", "n_incorrect"), [(30, 30), (2, 30), (30, 2), (1, 2), (0, 9)])
def test_each_label_has_half_of_what_is_drawn_or_all_it_has(tmp_path: Path, n_correct: int, n_incorrect: int) -> None:
    labels = [True] * n_correct + [False] * n_incorrect
    split = _split(tmp_path, [_solution(i, "int main(){}", label, str(label)) for i, label in enumerate(labels)])
    found = check_verdicts(split, "codecontests", most=8).not_run
    drawn = [found.get(f"{label}, not Python 3", 0) for label in (True, False)]
    assert sum(drawn) == min(8, len(labels))
    assert drawn[0] >= min(4, n_correct)
    assert drawn[1] >= min(4, n_incorrect)


def test_solutions_without_tests_are_counted_and_not_run(tmp_path: Path) -> None:
    found = check_verdicts(_split(tmp_path, [_solution(0, SQUARE, True)], tests=()), "condefects", most=5)
    assert (found.correct, found.not_run) == (0, {"no tests": 1})


def test_the_sandbox_refuses_a_test_that_only_compares_an_answer() -> None:
    with pytest.raises(
        UserError, match=r"^a test of kind 'answer' compares a worked answer's number: it has no program"
    ):
        sandbox.run("print(72)", [TestCase("answer", "", "72")])
