"""A program meets tests of one kind: a player runs it, a judge decides, and the harness carries their messages.

The verdict is the judge's (`call` and `code` tests) or this process's (`stdio`), never the player's.
"""

import ast
import functools
import itertools
import math
import time
from typing import Any

from weighted_mtp.data.sources.rows import TOO_LONG
from weighted_mtp.errors import UserError
from weighted_mtp.sandbox.assertions import planned_calls
from weighted_mtp.sandbox.boot import Role
from weighted_mtp.sandbox.guest.codec import from_plain, pack, to_plain
from weighted_mtp.sandbox.interpreter import OFF_SCRIPT, ConfinedInterpreter, Exit, Interrupted, Lost
from weighted_mtp.sandbox.job import Job
from weighted_mtp.sandbox.messages import (
    Ended,
    Status,
    bad_end,
    off_script,
    raise_if_bad,
    unpacked,
    verdict_of,
)
from weighted_mtp.sandbox.same_output import same_output
from weighted_mtp.sandbox.warm_pair import WarmPair

_SCRIPT_SAYS = 1  # messages of a script at most: how it failed
_TIMES_EXPECTED = 4  # how much more than what is expected, in bytes, a program may write: characters may be escaped
_OUTPUT_KEPT = 8000  # bytes of each stream's end


# The tests of a problem, which many programs meet → the calls that they make; None if that cannot be said.
_REHEARSED: dict[tuple[Any, ...], list[list[Any]] | None] = {}
_MOST_REHEARSED = 4096


class Exchange:
    """The exchange of messages for tests of one kind. Each of `calls`, `code`, `stdio` gives (status, detail, test)."""

    def __init__(self, pair: WarmPair, job: Job, patience: float) -> None:
        self.number = 0  # the test that was running
        self.is_late = False  # it has ended, after more CPU time than it has
        self.is_stuck = False  # what runs is to be killed
        self.output = ""  # what the program printed
        self._is_dirty = False  # an interpreter is not fit for another program
        self._cpu_seconds = patience * job.limits.cpu_seconds
        self._output_bytes = max(job.limits.output_bytes, _TIMES_EXPECTED * _expected_bytes(job))
        self._pair = pair
        self._job = job
        self._running: dict[Role, ConfinedInterpreter] = {}
        self._deadline = time.monotonic() + job.limits.wall_seconds

    def _begin(self, role: Role, message: dict[str, Any], stdin: str = "", here: bool = False) -> ConfinedInterpreter:
        before = time.monotonic()
        if self._is_dirty and not self._running:
            self._pair.close()
            self._is_dirty = False
        interpreter = self._running[role] = self._pair[role]
        self._deadline += time.monotonic() - before  # a start is not the program's time
        most = math.ceil(self._cpu_seconds if role == "player" else 2 * self._cpu_seconds) + 1
        limits = {"cpu_seconds": most, "output_bytes": self._output_bytes}
        interpreter.begin({**message, **limits}, self._deadline, stdin, here)
        return interpreter

    def _begin_player(self, mode: str, **extra: Any) -> ConfinedInterpreter:
        job = self._job
        message = {"mode": mode, "program": job.program, "entry_point": job.entry_point}
        return self._begin("player", {**message, "limit": self._output_bytes, **extra})

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
        answers, end = self._answered([_plain_arguments(test.input) for test in tests])
        given = tests if end is None else tests[: len(answers)]
        expected = [[test.output, test.atol] for test in given]
        status, detail, number = verdict_of(self._decided({"expected": expected, "answers": answers}))
        return (end.status, end.detail, self.number) if end and status == "passed" else (status, detail, number)

    def _answered(self, calls: list[Any], **extra: Any) -> tuple[list[str], Ended | Interrupted | None]:
        """The program's answers to calls, which are handed to it at once, and the bad end that it came to, if any."""
        answers: list[str] = []
        self._ask(calls, **extra)
        try:
            self._collect(answers, len(calls))
        except (Ended, Interrupted) as ended:
            if isinstance(ended, Interrupted):
                self._stop("player")
            self._deadline = time.monotonic() + self._job.limits.wall_seconds
            return answers, ended
        return answers, None

    def answers(self, longest: int) -> list[Any]:
        """What the program returns to the calls of its tests."""
        calls = [_plain_arguments(test.input) for test in self._job.tests]
        self._ask(calls, limit=longest, to_the_end=True)
        packed: list[str] = []
        self._collect(packed, len(calls))
        values = []
        for self.number, answer in enumerate(packed):
            message = unpacked(answer.encode("ascii"))
            if "bytes" not in message:
                raise_if_bad(message)
            value = TOO_LONG if "bytes" in message else from_plain(message["value"], _without_objects)
            values.append(_bare(value))
        if len(values) < len(calls):
            raise _no_answer()
        return values

    def _ask(self, calls: list[Any], **extra: Any) -> None:
        """Hand the player all calls at once."""
        self._begin_player("calls", calls=calls, **extra).let_end()
        self._loaded()

    def _collect(self, answers: list[str], wanted: int) -> None:
        """The player's answers to this many calls, until it ends; a bad end is raised."""
        size = 0
        while not isinstance(event := self._receive("player"), Exit):
            size += len(event)
            if len(answers) == wanted or size > self._output_bytes:
                raise Interrupted("refused", f"answered more than {self._output_bytes} bytes")
            answers.append(event.decode("ascii", "replace"))
            self.number = min(len(answers), wanted - 1)
        if event.status and len(answers) < wanted:
            raise bad_end(event.status)

    def _decided(self, message: dict[str, Any]) -> bytes:
        """What the warm judge says to a program's answers."""
        self._begin("judge", message, here=True)
        decision = self._receive("judge")
        if isinstance(decision, Exit):
            raise Interrupted("failed", "the comparison of its answers died")
        del self._running["judge"]
        return decision

    def _said_by_fork(self, mode: str, **more: Any) -> bytes | None:
        """What a fork of the judge says of the tests, once it has ended; None if it ends without a word."""
        self._begin("judge", {**self._test_code(), "mode": mode, **more})
        said = event = self._receive("judge")
        while not isinstance(event, Exit):
            event = self._receive("judge")
        return None if isinstance(said, Exit) else said

    def code(self) -> tuple[Status, str, int]:
        """`code` tests: over answers to calls that are known beforehand, or else in a conversation."""
        job = self._job
        calls = planned_calls(job.tests, job.entry_point)
        if calls is not None:
            return self._asserted(calls, is_plain=True) or self._conversation()
        tests = (job.context, job.entry_point, *((test.input, test.output) for test in job.tests))
        if tests not in _REHEARSED:
            if len(_REHEARSED) == _MOST_REHEARSED:
                _REHEARSED.clear()
            _REHEARSED[tests] = self._rehearsed()
        calls = _REHEARSED[tests]
        return (calls and self._asserted(calls, is_plain=False)) or self._conversation()

    def _rehearsed(self) -> list[list[Any]] | None:
        """The calls that the tests make if every assertion holds, test by test; None if that cannot be said."""
        try:
            said = self._said_by_fork("rehearse")
        except Interrupted:
            self._stop("judge")
            said = None
        self._deadline = time.monotonic() + self._job.limits.wall_seconds
        return None if said is None else unpacked(said).get("calls")

    def _asserted(self, calls: list[list[Any]], is_plain: bool) -> tuple[Status, str, int] | None:
        """Tests over answers that were collected beforehand; None if they turn out to need the program.

        is_plain  they are assertions over builtin functions, which the warm judge itself can run
        """
        answers, end = self._answered(list(itertools.chain.from_iterable(calls)), to_the_end=not is_plain)
        given = {"calls": calls, "answers": answers}
        payload = (
            self._decided({**self._test_code(), "context": "", **given})
            if is_plain
            else self._said_by_fork("recorded", **given)
        )
        said = {} if payload is None else unpacked(payload)
        too_much = end is not None and end.status == "refused" and "unanswered" in said
        if payload is None or "unplanned" in said or too_much:
            self.is_late = False  # it will run once more, when each answer may be as large as here all together
            return None
        if "unanswered" in said:
            end = end or _no_answer()
            return end.status, end.detail, said["unanswered"]
        return verdict_of(payload)

    def _conversation(self) -> tuple[Status, str, int]:
        """The judge runs the tests, and each of its requests is one question to the player."""
        player = self._begin_player("serve")
        names = self._loaded()
        judge = self._begin("judge", {**self._test_code(), "mode": "converse", "names": names})
        while not isinstance(event := self._receive("judge"), Exit):
            if event.startswith(b'{"verdict"'):
                return verdict_of(event)
            player.send(event, self._deadline)
            judge.send(self._answer(), self._deadline)
        raise Interrupted("failed", f"the test code ended its process: {bad_end(event.status)}")

    def _test_code(self) -> dict[str, Any]:
        """What a judge needs to know of the tests."""
        job = self._job
        tests = [[test.input, test.output] for test in job.tests]
        return {"context": job.context, "entry_point": job.entry_point, "names": [job.entry_point], "tests": tests}

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
            printed = player.output()
            if not same_output(printed, test.output):
                raise Ended("failed", f"printed {printed[:200]!r}, expected {test.output[:200]!r}")
        return "passed", "", -1

    def _stop(self, role: Role) -> None:
        """Kill what runs; an interpreter that does not say so at once is replaced."""
        if role in self._running:
            self._is_dirty |= not self._running.pop(role).stop()

    def settle(self) -> None:
        """Let what still runs end, or kill it, and replace interpreters that are in doubt."""
        self.output = self._pair["player"].last_output(_OUTPUT_KEPT)
        for role, last in _LAST_WORDS:
            if not self.is_stuck:
                self._finish(role, last)
            self._stop(role)
        if self._is_dirty:
            self._pair.close()
        else:
            self._pair.clear()

    def _finish(self, role: Role, last: str) -> None:
        self._deadline = time.monotonic() + 1.0
        try:
            if role in self._running:
                self._running[role].send(pack(last), self._deadline)
            while role in self._running:
                self._receive(role)
        except (Interrupted, Lost):
            return


def _without_objects(tag: str, items: list[Any]) -> Any:
    return items[0] if tag == "u" else object()


def _bare(value: Any) -> Any:
    """A value with dicts in place of the standard library's kinds of them."""
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    return type(value)(map(_bare, value)) if type(value) in (list, tuple) else value


def _expected_bytes(job: Job) -> int:
    """What the tests expect to come back, all together if all comes from one run of the program."""
    sizes = [len(test.output.encode("utf-8", "surrogatepass")) for test in job.tests]
    return max(sizes) if job.tests[0].kind == "stdio" else sum(sizes)


def _no_answer() -> Ended:
    return Ended("failed", "the program ended before it answered")


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
