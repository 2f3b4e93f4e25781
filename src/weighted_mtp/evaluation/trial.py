"""One program before its tests: a player runs it, a judge decides, and the harness carries their messages.

The verdict is the judge's (`call` and `code` tests) or this process's (`stdio`), never the player's.
"""

import ast
import functools
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from weighted_mtp.data.schema import TestCase
from weighted_mtp.data.sources.rows import TOO_LONG
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.comparison import same_output
from weighted_mtp.evaluation.confinement import Isolation
from weighted_mtp.evaluation.guest.codec import from_plain, pack, to_plain
from weighted_mtp.evaluation.interpreter import (
    CPU_TIME,
    OFF_SCRIPT,
    WALL_TIME,
    ConfinedInterpreter,
    Confinement,
    Exit,
    Interrupted,
    Lost,
    Role,
)
from weighted_mtp.evaluation.messages import (
    Ended,
    Status,
    bad_end,
    off_script,
    raise_if_bad,
    shown,
    unpacked,
    verdict_of,
)

_PATIENCE = 2.0  # how much more CPU time a busy machine may make of what a quiet one needs: shared caches and cores
_SCRIPT_SAYS = 2  # messages of a script at most: how it failed, and how one of its exit handlers did
_OUTPUT_SHOWN = 2000  # characters of a program's last output kept in an Outcome, and of a detail


@dataclass(frozen=True)
class Limits:
    """What one program may use, over all its `call` or `code` tests, or per `stdio` test.

    cpu_seconds   CPU time of the program, user's and system's; the judge has twice as much for itself
    wall_seconds  elapsed time, generous, so that a busy machine does not decide a verdict
    memory_mb     address space beyond the interpreter's own, MiB
    output_bytes  largest output, file or single answer

    A program is one process of at most 256 threads; all its files together are bounded, too (16 MiB).
    """

    cpu_seconds: float = 5.0
    wall_seconds: float = 30.0
    memory_mb: int = 1024
    output_bytes: int = 4 << 20

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

    status   passed | failed | timed_out | out_of_memory | refused (it tried what the sandbox forbids) |
             broken (it does not compile)
    detail   why, with the number of the test, from 1; "" when passed
    seconds  elapsed
    output   the end of what it printed
    test     the number of that test, from 1; None where no test decided: passed, broken

    Both texts are a hostile program's: they are bounded, can be encoded, and steer no terminal.
    """

    status: Status
    detail: str = ""
    seconds: float = 0.0
    output: str = ""
    test: int | None = None


class Doubtful(Exception):
    """A timeout that a quiet machine might not give: the job is to be run again, alone."""


class Trial:
    """A warm player and a warm judge, for one job after another; closed by the owner.

    Both are replaced when a program leaves them in doubt, and for a job whose limits are part of the confinement.
    """

    def __init__(self, isolation: Isolation) -> None:
        self._isolation = isolation
        self._interpreters: dict[Role, ConfinedInterpreter] = {}
        self._confinement: Confinement | None = None

    def kill(self) -> None:
        """End what runs, from another thread; the job under way gets an outcome that means nothing."""
        for interpreter in list(self._interpreters.values()):
            interpreter.kill()

    def clear(self) -> None:
        """Remove what the last job left in the folders."""
        for interpreter in self._interpreters.values():
            interpreter.clear()

    def close(self) -> None:
        """Kill both interpreters and remove their folders."""
        for role in list(self._interpreters):
            self._interpreters.pop(role).close()

    def run(self, job: Job, alone: bool) -> Outcome:
        """Run the tests in order up to the first that does not pass.

        Not `alone`, with other programs at the same time, a program may take longer: it is stopped later, and Doubtful
        is raised where it passes with more CPU time than it has, or has waited long.
        """
        if not job.tests:
            raise UserError(f"a job for {job.entry_point or 'a program'} has no tests: nothing could decide it")
        if not job.entry_point and any(test.kind == "call" for test in job.tests):
            raise UserError("a `call` test calls a function, and the job names none: give it as entry_point")
        if any(test.kind == "answer" for test in job.tests):
            raise UserError("a test of kind 'answer' compares a worked answer's number: it has no program to execute")
        self._confine(job.limits)
        start, done, outcome = time.monotonic(), 0, Outcome("passed")
        for kind, group in itertools.groupby(job.tests, key=lambda test: test.kind):
            tests = tuple(group)
            part = replace(job, tests=tests)
            outcome = self._run_on_any(kind, part, done, alone)
            done += len(tests)
            if outcome.status != "passed":
                break
        return replace(outcome, seconds=time.monotonic() - start)

    def answers(self, job: Job, longest: int) -> list[Any]:
        """What a program returns to each of its `call` tests, whose outputs are not looked at.

        Values are of exact builtin types; an object of any other type is an `object()`, and TOO_LONG stands for a
        value of over `longest` bytes in the codec. Raises Unanswered.
        """
        self._confine(job.limits)
        attempt = _Attempt(self, job, 1.0)
        try:
            return attempt.answers(longest)
        except (Ended, Interrupted) as ended:
            attempt.is_stuck |= isinstance(ended, Interrupted)
            raise Unanswered(f"call {attempt.number + 1}: {ended.status}: {ended.detail}") from None
        finally:
            attempt.settle()

    def _confine(self, limits: Limits) -> None:
        confinement = Confinement(self._isolation, limits.memory_mb, limits.output_bytes)
        if confinement != self._confinement:
            self.close()
            self._confinement = confinement

    def _run_on_any(self, kind: str, job: Job, done: int, alone: bool) -> Outcome:
        """Where the warm interpreter is gone, on a new one; a program on which two are lost has brought them down."""
        for _ in range(2):
            try:
                return self._run_kind(kind, job, done, alone)
            except Lost:
                self.close()
        harmless = Job("def f():\n    return 1\n", "f", [TestCase("call", "()", "1")], job.limits)
        self._run_kind("call", harmless, 0, alone)  # raises Lost where it is the machine
        return Outcome("failed", "the program brought its interpreter down twice", test=done + 1)

    def _run_kind(self, kind: str, job: Job, done: int, alone: bool) -> Outcome:
        attempt = _Attempt(self, job, 1.0 if alone else _PATIENCE)
        status: Status
        try:
            status, detail, number = {"call": attempt.calls, "code": attempt.code, "stdio": attempt.stdio}[kind]()
        except (Ended, Interrupted) as ended:
            status, detail, number = ended.status, ended.detail, attempt.number
            attempt.is_stuck |= isinstance(ended, Interrupted)
        attempt.settle()
        if status == "passed" and attempt.is_late:
            status, detail, number = "timed_out", CPU_TIME, attempt.number
        if status == "timed_out" and not alone and (attempt.is_late or detail == WALL_TIME):
            raise Doubtful
        if status == "timed_out":
            limit = job.limits.cpu_seconds if detail == CPU_TIME else job.limits.wall_seconds
            detail = f"{limit:g} s of {detail}"
        output = shown(attempt.output[-_OUTPUT_SHOWN:])
        if status in ("passed", "broken"):
            return Outcome(status, shown(detail[:_OUTPUT_SHOWN]), output=output)
        test = done + number + 1
        return Outcome(status, f"test {test}: {shown(detail[:_OUTPUT_SHOWN])}", output=output, test=test)

    def interpreter(self, role: Role) -> ConfinedInterpreter:
        """The warm interpreter of a role, started where there is none."""
        assert self._confinement is not None
        if role not in self._interpreters:
            self._interpreters[role] = ConfinedInterpreter(role, self._confinement)
        return self._interpreters[role]


class Unanswered(Exception):
    """A program that was asked for values and has not returned them all: at which call, and why."""


class _Attempt:
    """The exchange of messages for tests of one kind. Each of `calls`, `code`, `stdio` gives (status, detail, test)."""

    def __init__(self, trial: Trial, job: Job, patience: float) -> None:
        self.number = 0  # the test that was running
        self.is_late = False  # it has ended, after more CPU time than it has
        self.is_stuck = False  # what runs is to be killed
        self.output = ""  # what the program printed
        self._is_dirty = False  # an interpreter is not fit for another job
        self._cpu_seconds = patience * job.limits.cpu_seconds
        self._trial = trial
        self._job = job
        self._running: dict[Role, ConfinedInterpreter] = {}
        self._deadline = time.monotonic() + job.limits.wall_seconds

    def _begin(self, role: Role, message: dict[str, Any], stdin: str = "", here: bool = False) -> ConfinedInterpreter:
        before = time.monotonic()
        interpreter = self._running[role] = self._trial.interpreter(role)
        self._deadline += time.monotonic() - before  # a start is not the program's time
        most = math.ceil(self._cpu_seconds if role == "player" else 2 * self._cpu_seconds) + 1
        interpreter.begin({**message, "cpu_seconds": most}, self._deadline, stdin, here)
        return interpreter

    def _begin_player(self, mode: str, **extra: Any) -> ConfinedInterpreter:
        job = self._job
        message = {"mode": mode, "program": job.program, "entry_point": job.entry_point}
        return self._begin("player", {**message, "limit": job.limits.output_bytes, **extra})

    def _receive(self, role: Role) -> bytes | Exit:
        most = self._cpu_seconds if role == "player" else 2 * self._cpu_seconds
        event = self._running[role].receive(self._deadline, most)
        if isinstance(event, Exit):
            self._end(role, event)
        return event

    def _end(self, role: Role, ended: Exit) -> None:
        del self._running[role]
        self._is_dirty |= not ended.is_clean
        self.is_late |= role == "player" and ended.cpu_seconds > self._job.limits.cpu_seconds

    def _answer(self) -> bytes:
        """The player's next message; its end is a verdict."""
        event = self._receive("player")
        if isinstance(event, Exit):
            raise bad_end(event.status)
        return event

    def _loaded(self) -> list[str]:
        """The names that the program defines."""
        message = unpacked(self._answer())
        raise_if_bad(message)
        names = message.get("names")
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise off_script()
        return names

    def calls(self) -> tuple[Status, str, int]:
        """`call` tests: all calls go to the player at once, all answers to the judge.

        What was answered before the program came to a bad end is judged first: the first test to fail decides.
        """
        tests = self._job.tests
        self._ask()
        answers: list[str] = []
        try:
            self._collect(answers)
        except (Ended, Interrupted) as ended:
            if isinstance(ended, Interrupted):
                self._stop("player")
            self._deadline = time.monotonic() + self._job.limits.wall_seconds
            status, detail, number = self._judged(answers, tests[: len(answers)])
            return (ended.status, ended.detail, self.number) if status == "passed" else (status, detail, number)
        return self._judged(answers, tests)

    def answers(self, longest: int) -> list[Any]:
        """What the program returns to the calls of its tests."""
        self._ask(limit=longest, to_the_end=True)
        packed: list[str] = []
        self._collect(packed)
        values = []
        for self.number, answer in enumerate(packed):
            message = unpacked(answer.encode("ascii"))
            if "bytes" not in message:
                raise_if_bad(message)
            values.append(TOO_LONG if "bytes" in message else from_plain(message["value"], lambda *_: object()))
        if len(values) < len(self._job.tests):
            raise Ended("failed", "the program ended before it answered")
        return values

    def _ask(self, **extra: Any) -> None:
        """Hand the player all calls at once."""
        self._begin_player("calls", calls=[_plain_arguments(test.input) for test in self._job.tests], **extra)
        self._loaded()

    def _collect(self, answers: list[str]) -> None:
        """The player's answers to `call` tests, until it ends; a bad end is raised."""
        wanted = len(self._job.tests)
        while not isinstance(event := self._receive("player"), Exit):
            if len(answers) == wanted or sum(map(len, answers)) + len(event) > self._job.limits.output_bytes:
                raise Interrupted("refused", f"answered more than {self._job.limits.output_bytes} bytes")
            answers.append(event.decode("ascii", "replace"))
            self.number = min(len(answers), wanted - 1)
        if event.status and len(answers) < wanted:
            raise bad_end(event.status)

    def _judged(self, answers: list[str], tests: Sequence[TestCase]) -> tuple[Status, str, int]:
        expected = [[test.output, test.atol] for test in tests]
        self._begin("judge", {"expected": expected, "answers": answers}, here=True)
        verdict = self._receive("judge")
        if isinstance(verdict, Exit):
            raise Interrupted("failed", "the comparison of its answers died")
        del self._running["judge"]
        return verdict_of(verdict)

    def code(self) -> tuple[Status, str, int]:
        """`code` tests: the judge runs them, and each of its requests is one question to the player."""
        player = self._begin_player("serve")
        names = self._loaded()
        job = self._job
        tests = [[test.input, test.output] for test in job.tests]
        message = {"context": job.context, "entry_point": job.entry_point, "names": names, "tests": tests}
        judge = self._begin("judge", message)
        while not isinstance(event := self._receive("judge"), Exit):
            if event.startswith(b'{"verdict"'):
                return verdict_of(event)
            player.send(event, self._deadline)
            judge.send(self._answer(), self._deadline)
        raise Interrupted("failed", f"the test code ended its process: {bad_end(event.status)}")

    def stdio(self) -> tuple[Status, str, int]:
        """`stdio` tests: a run of the whole script each, its output compared by `same_output`."""
        for number, test in enumerate(self._job.tests):
            self.number = number
            self._deadline = time.monotonic() + self._job.limits.wall_seconds
            message = {"mode": "main", "program": self._job.program}
            player = self._begin("player", message, test.input)
            said: list[dict[str, Any]] = []
            while not isinstance(event := self._receive("player"), Exit):
                if len(said) == _SCRIPT_SAYS:
                    raise Interrupted("failed", OFF_SCRIPT)
                said.append(unpacked(event))
            for message in said:
                raise_if_bad(message)
            if event.status:
                raise bad_end(event.status)
            printed = player.output()[0]
            if not same_output(printed, test.output):
                raise Ended("failed", f"printed {printed[:200]!r}, expected {test.output[:200]!r}")
        return "passed", "", -1

    def _stop(self, role: Role) -> None:
        """Kill what runs; an interpreter that does not say so at once is replaced."""
        if role in self._running:
            self._is_dirty |= not self._running.pop(role).stop()

    def settle(self) -> None:
        """Let what still runs end, or kill it, and replace interpreters that are in doubt."""
        self.output = "".join(self._trial.interpreter("player").output())
        for role, last in _LAST_WORDS:
            if not self.is_stuck:
                self._finish(role, last)
            self._stop(role)
        if self._is_dirty:
            self._trial.close()
        else:
            self._trial.clear()

    def _finish(self, role: Role, last: str) -> None:
        self._deadline = time.monotonic() + 1.0
        try:
            if role in self._running:
                self._running[role].send(pack(last), self._deadline)
            while role in self._running:
                self._receive(role)
        except (Interrupted, Lost):
            return


_LAST_WORDS: tuple[tuple[Role, str], ...] = (("player", "end"), ("judge", "gone"))


@functools.lru_cache(maxsize=4096)
def _plain_arguments(literal: str) -> Any:
    """A `call` test's input in the codec's plain form; many programs meet the same test."""
    try:
        arguments = ast.literal_eval(literal)
        if isinstance(arguments, tuple):
            return to_plain(arguments, lambda value: [])  # a literal holds nothing that needs a reference
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    raise UserError(f"a call test's input must be a Python literal of the argument tuple, and is {literal[:80]!r}")
