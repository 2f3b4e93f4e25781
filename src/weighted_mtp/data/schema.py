"""Records of every dataset: problems with tests, and correct or incorrect solutions of them.

One schema for all sources, so that the code that trains on the micro benchmark trains on CodeContests. `tables.py`
keeps them on disk.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pyarrow as pa

TestKind = Literal["call", "code", "stdio", "answer"]
Visibility = Literal["public", "private", "generated"]
Suite = Literal["base", "plus"]


@dataclass(frozen=True)
class TestCase:
    """One test of a program.

    kind       input                                          output
    `call`     Python literal of the argument tuple           Python literal of the expected return value
    `code`     code run before (imports, set-up; may be "")    test code (asserts) that uses the program's names
    `stdio`    text on standard input                         expected text on standard output
    `answer`   ""                                             the number that a worked answer must end with; not run

    suite   "plus" of tests that EvalPlus adds to a benchmark: what passes only the others has passed the benchmark
    atol    of `call`: how far a number may be off beside 1e-7 of the expected one; 0 for Python's `==`
    """

    __test__: ClassVar[bool] = False  # pytest would take the name for a class of tests

    kind: TestKind
    input: str
    output: str
    visibility: Visibility = "private"
    suite: Suite = "base"
    atol: float = 0.0

    @property
    def is_shown(self) -> bool:
        """Whether a prompt may show it: MBPP's asserts say what a function is to be called."""
        return self.kind == "code" and self.visibility == "public"


@dataclass(frozen=True)
class Problem:
    """A task: its statement, and the tests that decide."""

    problem_id: str  # unique over all datasets: "micro/…", "HumanEval/0", "mbpp/11", "codecontests/codeforces/…"
    source: str
    split: str
    description: str  # the task in natural language
    starter: str = ""  # code that a solution continues (HumanEval's prompt); "" if it is written from nothing
    entry_point: str = ""  # function that `call` tests call; "" for stdio
    difficulty: int = -1  # the source's own scale; -1 where unknown
    rating: int | None = None  # Codeforces rating
    tests: tuple[TestCase, ...] = ()
    time_limit: float | None = None  # seconds per test
    memory_limit: int | None = None  # bytes


SpanKind = Literal["semantic", "wrong"]


@dataclass(frozen=True)
class Span:
    """Characters `code[start:end]` that decide (`semantic`), or the ones that make it wrong (`wrong`)."""

    kind: SpanKind
    start: int
    end: int


@dataclass(frozen=True)
class Solution:
    """A program for a problem, with its verdict."""

    solution_id: str
    problem_id: str
    code: str
    is_correct: bool
    language: str = "python3"  # python2 | python3 | cpp | java; "text" for a worked answer
    origin: str = "human"  # human | synthetic | model, or the source's own word ("mutant:compare")
    spans: tuple[Span, ...] = field(default=())  # ground truth, if it is known


Records = tuple[list[Problem], list[Solution]]
Counts = dict[str, int]
"""`{"problems": …, "correct": …, "incorrect": …}` of a split."""


@dataclass(frozen=True)
class Entry:
    """A problem with its solutions, as a reader makes them of one row of upstream's file.

    where     file and line, for messages
    dropped   which solutions of the row were left out: reason → how many
    left_out  why the problem as a whole is to be left out; "" if it is not
    """

    problem: Problem
    solutions: list[Solution]
    where: str
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: str = ""


def records(entries: Iterable[Entry]) -> Records:
    """All problems and all solutions of a reader's entries, for a dataset that fits in memory."""
    problems: list[Problem] = []
    solutions: list[Solution] = []
    for entry in entries:
        if not entry.left_out:
            problems.append(entry.problem)
            solutions += entry.solutions
    return problems, solutions


SMALL = "-small"
"""Ends the name of a dataset's slice for local runs."""

PROBLEM_SCHEMA = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
        pa.field("starter", pa.string(), nullable=False),
        pa.field("entry_point", pa.string(), nullable=False),
        pa.field("difficulty", pa.int32(), nullable=False),
        pa.field("rating", pa.int32()),
        pa.field(
            "tests",
            pa.list_(
                pa.struct(
                    [
                        *((name, pa.string()) for name in ("kind", "input", "output", "visibility", "suite")),
                        ("atol", pa.float64()),
                    ]
                ),
            ),
            nullable=False,
        ),
        pa.field("time_limit", pa.float64()),
        pa.field("memory_limit", pa.int64()),
    ]
)

SOLUTION_SCHEMA = pa.schema(
    [
        pa.field("solution_id", pa.string(), nullable=False),
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("is_correct", pa.bool_(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field(
            "spans",
            pa.list_(pa.struct([("kind", pa.string()), ("start", pa.int32()), ("end", pa.int32())])),
            nullable=False,
        ),
    ]
)
