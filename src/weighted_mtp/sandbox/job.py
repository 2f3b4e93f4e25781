"""What is executed, within which limits, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from weighted_mtp.data.schema import TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.sandbox.messages import Status


@dataclass(frozen=True)
class Limits:
    """What one program may use, over all its `call` or `code` tests, or per `stdio` test.

    cpu_seconds   CPU time of the program, user's and system's; the judge has twice as much for itself
    wall_seconds  elapsed time, generous, so that a busy machine does not decide a verdict
    memory_mb     address space beyond the interpreter's own, MiB
    output_bytes  largest output, file or single answer; or four times what the tests expect, where that is more

    A program is one process of at most 256 threads; all its files together are bounded, too (16 MiB).
    """

    cpu_seconds: float = 5.0
    wall_seconds: float = 30.0
    memory_mb: int = 1024
    output_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise UserError(f"limits.{name}: {value} is not positive")


@dataclass(frozen=True)
class Job:
    """A program and the tests that decide; `context` is code that the test code may use (HumanEval's prompt)."""

    program: str
    entry_point: str
    tests: Sequence[TestCase]
    limits: Limits = field(default_factory=Limits)
    context: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    status   passed | failed | cannot_be_compared (what it returns only its own code could compare) | timed_out |
             out_of_memory | refused (it tried what the sandbox forbids) | broken (it does not compile)
    detail   why, with the number of the test, from 1; "" when passed
    seconds  elapsed
    output   the end of what it printed
    test     the number of that test, from 1; None if no test decided: passed, broken

    Both texts are a hostile program's: they are bounded, can be encoded, and steer no terminal.
    """

    status: Status
    detail: str = ""
    seconds: float = 0.0
    output: str = ""
    test: int | None = None
