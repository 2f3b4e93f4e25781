"""One program before its tests: a player runs it, a judge decides, and the harness carries their messages.

The verdict is the judge's (`call` and `code` tests) or this process's (`stdio`), never the player's.
"""

import ast
import functools
import itertools
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from weighted_mtp.data.schema import TestCase
from weighted_mtp.data.sources.rows import TOO_LONG
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.comparison import same_output
from weighted_mtp.evaluation.guest.codec import CodecError, from_plain, pack, to_plain, unpack
from weighted_mtp.evaluation.interpreter import ConfinedInterpreter, Exit, Interrupted, Lost, Role

Status = Literal["passed", "failed", "timed_out", "out_of_memory", "refused", "broken"]

_OUTPUT_SHOWN = 2000  # characters of a program's last output kept in an Outcome


@dataclass(frozen=True)
class Limits:
    """What one program may use, over all its `call` or `code` tests, or per `stdio` test.

    cpu_seconds   CPU time of the program; the judge has as much for itself
    wall_seconds  elapsed time, generous, so that a busy machine does not decide a verdict
    memory_mb     address space beyond the interpreter's own, MiB, per process
    processes     processes at once, the program included (threads are bounded by memory)
    output_bytes  largest output, file or single answer
    """

    cpu_seconds: float = 5.0
    wall_seconds: float = 30.0
    memory_mb: int = 1024
    processes: int = 1
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
    """

    status: Status
    detail: str = ""
    seconds: float = 0.0
    output: str = ""
    test: int | None = None


class Trial:
    """A warm player and a warm judge, for one job after another; closed by the owner.

    Both are replaced when a program leaves them in doubt: a killed child keeps its place in sandlock's process count,
    and a job whose limits are part of the confinement needs another one.
    """

    def __init__(self) -> None:
        self._interpreters: dict[Role, ConfinedInterpreter] = {}
        self._confinement: tuple[int, int, int] | None = None

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

    def run(self, job: Job) -> Outcome:
        """Run the tests in order up to the first that does not pass."""
        if not job.tests:
            raise UserError(f"a job for {job.entry_point or 'a program'} has no tests: nothing could decide it")
        if any(test.kind == "answer" for test in job.tests):
            raise UserError("a test of kind 'answer' compares a worked answer's number: it has no program to execute")
        self._confine(job.limits)
        start, done, outcome = time.monotonic(), 0, Outcome("passed")
        for kind, group in itertools.groupby(job.tests, key=lambda test: test.kind):
            tests = tuple(group)
            part = replace(job, tests=tests)
            try:
                outcome = self._run_kind(kind, part, done)
            except Lost:
                self.close()  # once may be the machine's memory or process limit; twice is for the user to see
                outcome = self._run_kind(kind, part, done)
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
        attempt = _Attempt(self, job)
        try:
            return attempt.answers(longest)
        except (_Ended, Interrupted) as ended:
            attempt.doubtful |= isinstance(ended, Interrupted)
            raise Unanswered(f"call {attempt.number + 1}: {ended.status}: {ended.detail}") from None
        finally:
            attempt.settle()

    def _confine(self, limits: Limits) -> None:
        confinement = (limits.memory_mb, limits.processes, limits.output_bytes)
        if confinement != self._confinement:
            self.close()
            self._confinement = confinement

    def _run_kind(self, kind: str, job: Job, done: int) -> Outcome:
        attempt = _Attempt(self, job)
        status: Status
        try:
            status, detail, number = {"call": attempt.calls, "code": attempt.code, "stdio": attempt.stdio}[kind]()
        except _Ended as ended:
            status, detail, number = ended.status, ended.detail, attempt.number
        except Interrupted as interrupted:
            status, detail, number = interrupted.status, interrupted.detail, attempt.number
            attempt.doubtful = True
        output = attempt.output()
        attempt.settle()
        if status in ("passed", "broken"):
            return Outcome(status, detail, output=output)
        test = done + number + 1
        return Outcome(status, f"test {test}: {detail}", output=output, test=test)

    def interpreter(self, role: Role) -> ConfinedInterpreter:
        """The warm interpreter of a role, started where there is none."""
        assert self._confinement is not None
        if role not in self._interpreters:
            self._interpreters[role] = ConfinedInterpreter(role, *self._confinement)
        return self._interpreters[role]


class Unanswered(Exception):
    """A program that was asked for values and has not returned them all: at which call, and why."""


class _Ended(Exception):
    """A verdict reached in the middle of the exchange."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class _Attempt:
    """The exchange of messages for tests of one kind. Each of `calls`, `code`, `stdio` gives (status, detail, test)."""

    def __init__(self, trial: Trial, job: Job) -> None:
        self.number = 0  # the test that was running
        self.doubtful = False
        self._trial = trial
        self._job = job
        self._running: dict[Role, ConfinedInterpreter] = {}
        self._deadline = time.monotonic() + job.limits.wall_seconds

    def _begin(self, role: Role, message: dict[str, Any], stdin: str = "") -> ConfinedInterpreter:
        interpreter = self._running[role] = self._trial.interpreter(role)
        interpreter.begin(message, self._deadline, stdin)
        return interpreter

    def _begin_player(self, mode: str, **extra: Any) -> ConfinedInterpreter:
        job = self._job
        message = {"mode": mode, "program": job.program, "entry_point": job.entry_point}
        return self._begin("player", {**message, "limit": job.limits.output_bytes, **extra})

    def _receive(self, role: Role) -> bytes | Exit:
        event = self._running[role].receive(self._deadline, self._job.limits.cpu_seconds)
        if isinstance(event, Exit):
            del self._running[role]
            self.doubtful |= _signal_name(event.status) != ""
        return event

    def _answer(self) -> bytes:
        """The player's next message; its end is a verdict."""
        event = self._receive("player")
        if isinstance(event, Exit):
            raise _Ended("failed", _how_it_ended(event.status))
        return event

    def _loaded(self) -> list[str]:
        """The names that the program defines."""
        message = _unpacked(self._answer())
        if "broken" in message:
            raise _Ended("broken", str(message["broken"]))
        if "error" in message:
            raise _Ended(*_classified(message["error"]))
        return message.get("names", [])

    def calls(self) -> tuple[Status, str, int]:
        """`call` tests: all calls go to the player at once, all answers to the judge.

        What was answered before the program came to a bad end is judged first: the first test to fail decides.
        """
        tests = self._job.tests
        self._ask()
        answers: list[str] = []
        try:
            self._collect(answers)
        except (_Ended, Interrupted) as ended:
            self.doubtful |= isinstance(ended, Interrupted)
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
            message = _unpacked(answer.encode("ascii"))
            if "error" in message and "bytes" not in message:
                raise _Ended(*_classified(message["error"]))
            values.append(TOO_LONG if "bytes" in message else from_plain(message["value"], lambda *_: object()))
        if len(values) < len(self._job.tests):
            raise _Ended("failed", "the program ended before it answered")
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
            raise _Ended("failed", _how_it_ended(event.status))

    def _judged(self, answers: list[str], tests: Sequence[TestCase]) -> tuple[Status, str, int]:
        expected = [[test.output, test.atol] for test in tests]
        self._begin("judge", {"here": True, "expected": expected, "answers": answers})
        verdict = self._receive("judge")
        if isinstance(verdict, Exit):
            raise Interrupted("failed", "the comparison of its answers died")
        del self._running["judge"]
        return _verdict(verdict)

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
                return _verdict(event)
            player.send(event, self._deadline)
            judge.send(self._answer(), self._deadline)
        raise Interrupted("failed", f"the test code ended its process: {_how_it_ended(event.status)}")

    def stdio(self) -> tuple[Status, str, int]:
        """`stdio` tests: a run of the whole script each, its output compared by `same_output`."""
        for number, test in enumerate(self._job.tests):
            self.number = number
            self._deadline = time.monotonic() + self._job.limits.wall_seconds
            message = {"mode": "main", "program": self._job.program}
            player = self._begin("player", message, test.input)
            error: dict[str, Any] = {}
            while not isinstance(event := self._receive("player"), Exit):
                error = _unpacked(event)
            if "broken" in error:
                raise _Ended("broken", str(error["broken"]))
            if "error" in error:
                raise _Ended(*_classified(error["error"]))
            if event.status:
                raise _Ended("failed", _how_it_ended(event.status))
            printed = player.output()[0]
            if not same_output(printed, test.output):
                raise _Ended("failed", f"printed {printed[:200]!r}, expected {test.output[:200]!r}")
        return "passed", "", -1

    def output(self) -> str:
        """The end of what the program printed."""
        player = self._trial.interpreter("player")
        return "".join(player.output())[-_OUTPUT_SHOWN:]

    def settle(self) -> None:
        """Let what still runs end, and replace interpreters that are in doubt."""
        try:
            for role, last in (("player", "end"), ("judge", "gone")):
                if not self.doubtful and role in self._running:
                    self._finish(role, last)
        except Interrupted:
            self.doubtful = True
        if self.doubtful or self._job.limits.processes > 1:
            self._trial.close()
        else:
            self._trial.clear()

    def _finish(self, role: Role, last: str) -> None:
        self._deadline = time.monotonic() + 1.0
        if role in self._running:
            self._running[role].send(pack(last), self._deadline)
        while role in self._running:
            self._receive(role)


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


def _unpacked(payload: bytes) -> dict[str, Any]:
    """A message of the player, which may be anything."""
    try:
        message = unpack(payload)
    except CodecError:
        message = None
    if not isinstance(message, dict):
        raise _Ended("failed", "the program wrote on the sandbox's own pipe")
    return message


def _verdict(payload: bytes) -> tuple[Status, str, int]:
    message = unpack(payload)
    return message["verdict"]["status"], message["verdict"]["detail"], message["test"]


def _classified(error: Any) -> tuple[Status, str]:
    """[builtin class name, text] of an exception that the program let through → status and detail."""
    name, text = (str(part) for part in error) if isinstance(error, list) and len(error) == 2 else ("", str(error))
    if name == "MemoryError":
        return "out_of_memory", text
    return ("refused" if name == "PermissionError" else "failed"), text


def _signal_name(status: int) -> str:
    number = status & 0x7F
    return signal.Signals(number).name if number else ""


def _how_it_ended(status: int) -> str:
    name = _signal_name(status)
    return f"the program was killed by {name}" if name else f"the program ended itself with exit code {status >> 8}"
