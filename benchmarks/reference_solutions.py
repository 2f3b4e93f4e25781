"""How many reference solutions pass our harness, and why each of the rest does not.

    uv run python benchmarks/reference_solutions.py --data ../shared/data

Known values: HumanEval's canonical solutions 164 of 164, the same problems with `return None` as the body 0 of 164,
MBPP's reference solutions 974 of 974.
"""

import argparse
import time
from pathlib import Path

from weighted_mtp.data.schema import Problem, records
from weighted_mtp.data.sources import humaneval, mbpp
from weighted_mtp.evaluation.sandbox import Job, SandboxPool


def report(pool: SandboxPool, title: str, problems: list[Problem], programs: list[str]) -> None:
    """Run one program per problem and print the count, the rate and the failures."""
    jobs = [
        Job(program, problem.entry_point, problem.tests, context=problem.starter)
        for problem, program in zip(problems, programs, strict=True)
    ]
    start = time.perf_counter()
    outcomes = pool.run_many(jobs)
    seconds = time.perf_counter() - start
    failures = [
        (problem, outcome) for problem, outcome in zip(problems, outcomes, strict=True) if outcome.status != "passed"
    ]
    passed = len(jobs) - len(failures)
    print(f"{title}: {passed} of {len(jobs)} pass, {seconds:.1f} s, {len(jobs) / seconds:.0f} programs a second")
    if passed:  # where none should pass, the reasons say nothing
        for problem, outcome in failures:
            print(f"    {problem.problem_id}: {outcome.status}: {outcome.detail}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with humaneval/ and mbpp/")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    functions, canonical = records(humaneval.read(arguments.data / "humaneval" / "HumanEval.jsonl.gz"))
    tasks, references = records(mbpp.read(arguments.data / "mbpp" / "mbpp.jsonl.gz"))
    with SandboxPool(arguments.workers) as pool:
        report(pool, "HumanEval, canonical solutions", functions, [solution.code for solution in canonical])
        report(pool, "HumanEval, `return None`", functions, [f"{p.starter}    return None\n" for p in functions])
        report(pool, "MBPP, reference solutions", tasks, [solution.code for solution in references])


if __name__ == "__main__":
    main()
