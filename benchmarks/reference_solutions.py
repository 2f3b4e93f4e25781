"""What a dataset says of its own programs, against what our graders say.

    uv run python benchmarks/reference_solutions.py --data ../shared/data

Known values: HumanEval's canonical solutions 164 of 164, the same problems with `return None` as the body 0 of 164,
MBPP's reference solutions 974 of 974, HumanEval+'s 164 of 164, MBPP+'s 378 of 378, GSM8K's worked answers 1,319 of
1,319 and the published verdicts on four models' 5,276 answers. Of contest programs, the labelled ones: the share of
correct ones that pass, and of incorrect ones that do not. Expected values of HumanEval+ and MBPP+ are made first.
Handed back as a chat model's answer, a program is taken out unchanged: 974 of 974 of MBPP's, 164 of 164 of HumanEval's,
315 of 315 of CodeContests', as they are, in a fence, and in a fence with prose around it.
"""

import argparse
import gzip
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from weighted_mtp.data.schema import Entry, Problem, Solution, records
from weighted_mtp.data.sources import codecontests, evalplus, gsm8k, humaneval, mbpp
from weighted_mtp.data.sources.rows import Reading
from weighted_mtp.evaluation.benchmarks import BENCHMARKS, Benchmark
from weighted_mtp.evaluation.extraction import program_in_answer
from weighted_mtp.sandbox import Job, SandboxPool
from weighted_mtp.sandbox.reference import ReferenceRunner

SHOWN = 20  # disagreements of each label
WRAPPINGS: dict[str, Callable[[str], str]] = {
    "as they are": lambda code: code,
    "in a fence": lambda code: f"```python\n{code}\n```",
    "in a fence with prose around": lambda code: f"Here's the code:\n\n```python\n{code}\n```\n\nIt's O(n), I think.\n",
}
CONTESTS = ("codecontests/train", "codecontests/test", "codecontests_pairs/test", "llm_pairs/apps")


def report(pool: SandboxPool, title: str, problems: list[Problem], jobs: list[Job]) -> None:
    """Run one program per problem and print the count, the rate, the slowest and the failures."""
    start = time.perf_counter()
    outcomes = pool.run_many(jobs)
    seconds = time.perf_counter() - start
    passed = sum(outcome.status == "passed" for outcome in outcomes)
    slowest, name = max((outcome.seconds, p.problem_id) for outcome, p in zip(outcomes, problems, strict=True))
    print(f"{title}: {passed} of {len(jobs)} pass, {seconds:.1f} s, {len(jobs) / seconds:.0f} programs a second, "
          f"at most {slowest:.1f} s ({name})", flush=True)  # fmt: skip
    if passed:  # where none should pass, the reasons say nothing
        for problem, outcome in zip(problems, outcomes, strict=True):
            if outcome.status != "passed":
                print(f"    {problem.problem_id}: {outcome.status}: {outcome.detail[:200]}", flush=True)


def functions(pool: SandboxPool, data: Path) -> None:
    """HumanEval and MBPP, the latter with its challenge tests."""
    problems, solutions = records(humaneval.read(data / "humaneval" / "HumanEval.jsonl.gz"))
    scored = BENCHMARKS["humaneval"]
    right = [scored.program_job(p, s.code) for p, s in zip(problems, solutions, strict=True)]
    report(pool, "HumanEval, canonical solutions", problems, right)
    report(pool, "HumanEval, `return None`", problems, [scored.job(p, "    return None\n") for p in problems])
    problems, solutions = records(mbpp.read(data / "mbpp" / "mbpp.jsonl.gz"))
    every = Benchmark("mbpp")
    right = [every.program_job(p, s.code) for p, s in zip(problems, solutions, strict=True)]
    report(pool, "MBPP, reference solutions", problems, right)


def plus(pool: SandboxPool, data: Path, most: int | None) -> None:
    """HumanEval+ and MBPP+: the references, whose values are the expected ones, run again as any program."""
    files = {"humaneval+": (evalplus.read_humaneval, "HumanEvalPlus"), "mbpp+": (evalplus.read_mbpp, "MbppPlus")}
    for name, (read, stem) in files.items():
        with ReferenceRunner() as answers:
            entries = list(islice(read(data / "evalplus" / f"{stem}.jsonl.gz", Reading(answers=answers)), most))
        problems, solutions = records(entries)
        dropped = sum((entry.dropped for entry in entries), Counter[str]())
        suites = Counter(test.suite for problem in problems for test in problem.tests)
        print(f"{name}: tests {dict(suites)}, left out {dict(dropped)}")
        jobs = [BENCHMARKS[name].program_job(p, s.code) for p, s in zip(problems, solutions, strict=True)]
        report(pool, f"{name}, references", problems, jobs)


def chat_answers(data: Path) -> None:
    """Programs handed back as chat models would: how many of them are taken out as they went in."""
    files = {
        "MBPP": mbpp.read(data / "mbpp" / "mbpp.jsonl.gz"),
        "HumanEval": humaneval.read(data / "humaneval" / "HumanEval.jsonl.gz"),
        "CodeContests": codecontests.read(data / "codecontests" / "train.jsonl.gz"),
    }
    for title, entries in files.items():
        programs = [(entry.problem.entry_point, solution.code) for entry in entries for solution in entry.solutions]
        for name, wrap in WRAPPINGS.items():
            start = time.perf_counter()
            found = [program_in_answer(wrap(code), entry_point).program for entry_point, code in programs]
            unchanged = sum(a.rstrip("\n") == b.rstrip("\n") for a, (_, b) in zip(found, programs, strict=True))
            milliseconds = 1000 * (time.perf_counter() - start) / len(programs)
            print(f"{title}, {name}: {unchanged} of {len(programs)} unchanged, {milliseconds:.1f} ms each", flush=True)


def worked_answers(data: Path) -> None:
    """GSM8K: its own answers, and those of four models whose verdicts are published."""
    problems, solutions = records(gsm8k.read(data / "gsm8k" / "test.jsonl.gz", Reading(split="test")))
    scored = BENCHMARKS["gsm8k"]

    def passes(problem: Problem, text: str) -> bool:
        outcome = scored.grade(problem, text)
        return outcome is not None and outcome.status == "passed"

    right = sum(passes(p, s.code) for p, s in zip(problems, solutions, strict=True))
    print(f"GSM8K, worked answers: {right} of {len(problems)} pass")
    with gzip.open(data / "gsm8k" / "example_model_solutions.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    verdicts = [
        (passes(problem, answer["solution"]), answer["is_correct"])
        for problem, row in zip(problems, rows, strict=True)
        for answer in row.values()
        if isinstance(answer, dict)
    ]
    alike = sum(ours == theirs for ours, theirs in verdicts)
    print(f"GSM8K, models' answers: {alike} of {len(verdicts)} verdicts are the published ones", flush=True)


def contests(pool: SandboxPool, data: Path, most: int | None) -> None:
    """Labelled contest programs against all tests of their problems."""
    for name in CONTESTS:
        path = data / f"{name}.jsonl.gz"
        entries = islice(codecontests.read(path, Reading(split="test", languages=codecontests.LANGUAGES)), most)
        skipped: Counter[str] = Counter()
        chosen = list(_python(entries, skipped))
        outcomes = pool.run_many([BENCHMARKS["codecontests"].program_job(p, s.code) for p, s in chosen])
        for label, verb in ((True, "pass"), (False, "fail")):
            runs = [(s, o) for (_, s), o in zip(chosen, outcomes, strict=True) if s.is_correct == label]
            wrong = [(s, o) for s, o in runs if (o.status == "passed") != label]
            kind = "correct" if label else "incorrect"
            print(f"{name}: {len(runs) - len(wrong):,} of {len(runs):,} labelled {kind} {verb}", flush=True)
            for solution, outcome in wrong[:SHOWN]:
                print(f"    {solution.solution_id}: {outcome.status}: {outcome.detail[:200]}", flush=True)
        for language, number in skipped.items():
            print(f"    not run: {number:,} programs in {language}, not Python 3")


def _python(entries: Iterator[Entry], skipped: Counter[str]) -> Iterator[tuple[Problem, Solution]]:
    for entry in entries:
        for solution in entry.solutions:
            if solution.language == "python3":
                yield entry.problem, solution
            else:
                skipped[solution.language] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of humaneval/, mbpp/, evalplus/ and the others"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--first", type=int, help="only so many problems of each large dataset")
    parser.add_argument("--only", choices=("functions", "plus", "answers", "chat", "contests"), help="one part")
    options = parser.parse_args()
    with SandboxPool(options.workers) as pool:
        parts: dict[str, Callable[[], None]] = {
            "functions": lambda: functions(pool, options.data),
            "plus": lambda: plus(pool, options.data, options.first),
            "answers": lambda: worked_answers(options.data),
            "chat": lambda: chat_answers(options.data),
            "contests": lambda: contests(pool, options.data, options.first),
        }
        for name, part in parts.items():
            if options.only in (None, name):
                part()


if __name__ == "__main__":
    main()
