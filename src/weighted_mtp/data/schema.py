"""Records of every dataset: problems with tests, and correct or incorrect solutions of them.

One schema for all sources, so that the code that trains on the micro benchmark trains on CodeContests.
On disk a split is two Parquet files, `<root>/<dataset>/<split>/{problems,solutions}.parquet`: solutions are
many and long, problems are few, and sampling reads only the first's index columns.
"""

from dataclasses import dataclass, field
from typing import Literal

TestKind = Literal["call", "code", "stdio"]
Visibility = Literal["public", "private", "generated"]


@dataclass(frozen=True)
class TestCase:
    """One test of a program.

    kind       input                                          output
    `call`     Python literal of the argument tuple           Python literal of the expected return value
    `code`     code run before (imports, set-up; may be "")    test code (asserts) that uses the program's names
    `stdio`    text on standard input                         expected text on standard output
    """

    kind: TestKind
    input: str
    output: str
    visibility: Visibility = "private"


@dataclass(frozen=True)
class Problem:
    """A task: what is asked, and the tests that decide."""

    problem_id: str  # unique over all datasets: "micro/…", "HumanEval/0", "mbpp/11"
    source: str
    split: str
    description: str  # the task in natural language
    starter: str = ""  # code that a solution continues (HumanEval's prompt); "" where it is written from nothing
    entry_point: str = ""  # function that `call` tests call; "" for stdio
    difficulty: int = -1  # the source's own scale; -1 where unknown
    rating: int | None = None  # Codeforces rating
    tests: tuple[TestCase, ...] = ()
    time_limit: float | None = None  # seconds a test
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
    language: str = "python3"
    origin: str = "human"  # human | synthetic | model
    spans: tuple[Span, ...] = field(default=())  # ground truth, where it is known
