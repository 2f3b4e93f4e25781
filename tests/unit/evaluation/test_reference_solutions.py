"""Known values on the real data: what must pass passes, and what must not does not."""

import gzip
import json

import pytest

from weighted_mtp.data.schema import records
from weighted_mtp.data.sources import humaneval, mbpp
from weighted_mtp.evaluation.benchmarks import BENCHMARKS
from weighted_mtp.sandbox import Job, SandboxPool


@pytest.fixture(scope="module")
def pool():
    with SandboxPool(workers=2) as pool:
        yield pool


def statuses(pool, jobs):
    return [outcome.status for outcome in pool.run_many(jobs)]


def test_humanevals_canonical_solutions_pass_and_empty_bodies_do_not(pool, shared):
    problems, solutions = records(humaneval.read(shared / "humaneval" / "HumanEval.jsonl.gz"))
    scored = BENCHMARKS["humaneval"]
    right = [scored.program_job(*pair) for pair in zip(problems, (s.code for s in solutions), strict=True)]
    assert statuses(pool, right) == ["passed"] * 164
    assert "passed" not in statuses(pool, [scored.job(problem, "    return None\n") for problem in problems])


def test_mbpps_reference_solutions_pass_all_tests_the_challenges_too(pool, shared):
    problems, solutions = records(mbpp.read(shared / "mbpp" / "mbpp.jsonl.gz"))
    jobs = [Job(s.code, p.entry_point, p.tests) for p, s in zip(problems, solutions, strict=True)][::3]
    assert statuses(pool, jobs) == ["passed"] * len(jobs)


def test_verdicts_on_a_models_real_samples_are_human_evals(pool, shared):
    problems, _ = records(humaneval.read(shared / "humaneval" / "HumanEval.jsonl.gz"))
    folder = shared / "codet_humaneval"
    labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    by_id = {problem.problem_id: problem for problem in problems}
    with gzip.open(folder / "codegen16B_samples.jsonl.gz", "rt") as file:
        samples = [json.loads(line)["samples"] for line in file]
    jobs = [
        BENCHMARKS["humaneval"].job(by_id[row["task_id"]], texts[0]) for row, texts in zip(labels, samples, strict=True)
    ]
    assert [status == "passed" for status in statuses(pool, jobs)] == [bool(row["passed"][0]) for row in labels]
