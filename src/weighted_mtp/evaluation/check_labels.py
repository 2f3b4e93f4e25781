"""A prepared split's own solutions, executed: do the correct ones pass its tests, and the incorrect ones fail?

The answer is the noise in the labels and tests that every score on the split carries.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weighted_mtp.data.schema import Problem, Solution
from weighted_mtp.data.tables import read_problems, read_solutions, read_verdicts
from weighted_mtp.evaluation.benchmarks import Benchmark, benchmark
from weighted_mtp.sandbox import Outcome, run_many

_SHOWN = 20  # disagreements that are kept with their reason


@dataclass(frozen=True)
class Agreement:
    """What execution says of one split's labels.

    correct, incorrect  solutions run with that label
    passed, failed      of the correct ones, those that passed; of the incorrect ones, those that did not
    not_run             reason → solutions
    disagreements       "solution id: status: detail" of the first that contradict their label
    """

    correct: int
    passed: int
    incorrect: int
    failed: int
    not_run: dict[str, int]
    disagreements: list[str]


def check_verdicts(
    split: Path, dataset: str, most: int, workers: int = 2, on_progress: Callable[[int], None] | None = None
) -> Agreement:
    """Run up to `most` solutions of a split, of each label half, against all tests of their problems.

    They are drawn with a fixed seed; if a label has fewer than half, the other fills up.

    `on_progress` is called once per program. Only Python 3 is run, and only if there are tests that can be.

    Raises UserError for a missing or damaged split, and on a machine that cannot confine programs.
    """
    rows = _draw(np.asarray([verdict for _, verdict in read_verdicts(split)], dtype=bool), most)
    problems = {problem.problem_id: problem for problem in read_problems(split)}
    scored = benchmark(dataset, split.parent.parent)
    harness = Benchmark(dataset, limits=scored.limits, time_factor=scored.time_factor)
    chosen: list[Solution] = []
    not_run: Counter[str] = Counter()
    for solution in read_solutions(split, rows.tolist()):
        reason = _why_not(problems[solution.problem_id], solution)
        if reason:
            not_run[reason] += 1
        else:
            chosen.append(solution)
    if on_progress is not None:
        on_progress(not_run.total())
    jobs = [harness.program_job(problems[s.problem_id], s.code) for s in chosen]
    outcomes = run_many(jobs, workers, on_progress) if jobs else []
    return _agreement(chosen, outcomes, not_run)


def _draw(is_correct: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
    generator = np.random.default_rng(0)
    correct, incorrect = (generator.permutation(np.flatnonzero(is_correct == label)) for label in (True, False))
    n_correct = max(most // 2, most - len(incorrect))
    return np.sort(np.concatenate([correct[:n_correct], incorrect[: most - min(n_correct, len(correct))]]))


def _why_not(problem: Problem, solution: Solution) -> str:
    if solution.language != "python3":
        return f"{solution.language}, not Python 3"
    if not problem.tests:
        return "no tests"
    return ""


def _agreement(solutions: list[Solution], outcomes: list[Outcome], not_run: Counter[str]) -> Agreement:
    runs = list(zip(solutions, outcomes, strict=True))
    disagreements = [
        f"{solution.solution_id}: {outcome.status}" + (f": {outcome.detail}" if outcome.detail else "")
        for solution, outcome in runs
        if solution.is_correct != (outcome.status == "passed")
    ]
    n_correct = sum(solution.is_correct for solution in solutions)
    return Agreement(
        correct=n_correct,
        passed=sum(solution.is_correct and outcome.status == "passed" for solution, outcome in runs),
        incorrect=len(runs) - n_correct,
        failed=sum(not solution.is_correct and outcome.status != "passed" for solution, outcome in runs),
        not_run=dict(not_run.most_common()),
        disagreements=disagreements[:_SHOWN],
    )
