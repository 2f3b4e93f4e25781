"""One program before its tests, kind by kind, up to the first that does not pass."""

import itertools
import time
from dataclasses import replace
from typing import Any

from weighted_mtp.data.schema import TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.sandbox.confinement import Isolation
from weighted_mtp.sandbox.exchange import Exchange
from weighted_mtp.sandbox.interpreter import CPU_TIME, WALL_TIME, Interrupted, Lost
from weighted_mtp.sandbox.job import Job, Outcome
from weighted_mtp.sandbox.messages import Ended, Status, shown
from weighted_mtp.sandbox.packages import Packages
from weighted_mtp.sandbox.warm_pair import WarmPair

_PATIENCE = 2.0  # how much more CPU time a busy machine may make of what a quiet one needs: shared caches and cores
_OUTPUT_SHOWN = 2000  # characters of a program's last output kept in an Outcome, and of a detail


class Doubtful(Exception):
    """A timeout that a quiet machine might not give: the job has to run again with nothing beside it."""


class Worker:
    """One job after another in a warm pair of interpreters; closed by the owner."""

    def __init__(self, isolation: Isolation, packages: Packages = Packages()) -> None:  # noqa: B008 # it is a constant
        self._pair = WarmPair(isolation, packages)

    def kill(self) -> None:
        """End what runs, from another thread; the job under way gets an outcome that means nothing."""
        self._pair.kill()

    def close(self) -> None:
        """Kill both interpreters and remove their folders."""
        self._pair.close()

    def run(self, job: Job, alone: bool) -> Outcome:
        """Run the tests in order up to the first that does not pass.

        If not `alone`, beside other programs, a program may take longer: it is stopped later, and Doubtful is raised if
        it passes with more CPU time than it has, or has waited long.
        """
        if not job.tests:
            raise UserError(f"a job for {job.entry_point or 'a program'} has no tests: nothing could decide it")
        if not job.entry_point and any(test.kind == "call" for test in job.tests):
            raise UserError("a `call` test calls a function, and the job names none: give it as entry_point")
        if any(test.kind == "answer" for test in job.tests):
            raise UserError("a test of kind 'answer' compares a worked answer's number: it has no program to execute")
        self._pair.confine(job.limits)
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
        self._pair.confine(job.limits)
        exchange = Exchange(self._pair, job, 1.0)
        try:
            return exchange.answers(longest)
        except (Ended, Interrupted) as ended:
            exchange.is_stuck |= isinstance(ended, Interrupted)
            raise CallsUnanswered(f"call {exchange.number + 1}: {ended.status}: {ended.detail}") from None
        finally:
            exchange.settle()

    def _run_on_any(self, kind: str, job: Job, done: int, alone: bool) -> Outcome:
        """Where the warm interpreter is gone, on a new one; a program on which two are lost has brought them down."""
        for _ in range(2):
            try:
                return self._run_kind(kind, job, done, alone)
            except Lost:
                self._pair.close()
        harmless = Job("def f():\n    return 1\n", "f", [TestCase("call", "()", "1")], job.limits)
        self._run_kind("call", harmless, 0, alone)  # raises Lost if it is the machine
        return Outcome("failed", "the program brought its interpreter down twice", test=done + 1)

    def _run_kind(self, kind: str, job: Job, done: int, alone: bool) -> Outcome:
        exchange = Exchange(self._pair, job, 1.0 if alone else _PATIENCE)
        status: Status
        try:
            status, detail, number = {"call": exchange.calls, "code": exchange.code, "stdio": exchange.stdio}[kind]()
        except (Ended, Interrupted) as ended:
            status, detail, number = ended.status, ended.detail, exchange.number
            exchange.is_stuck |= isinstance(ended, Interrupted)
        exchange.settle()
        if status == "passed" and exchange.is_late:
            status, detail, number = "timed_out", CPU_TIME, exchange.number
        if status == "timed_out" and not alone and (exchange.is_late or detail == WALL_TIME):
            raise Doubtful
        if status == "timed_out":
            limit = job.limits.cpu_seconds if detail == CPU_TIME else job.limits.wall_seconds
            detail = f"{limit:g} s of {detail}"
        output = shown(exchange.output[-_OUTPUT_SHOWN:])
        if status in ("passed", "broken"):
            return Outcome(status, shown(detail[:_OUTPUT_SHOWN]), output=output)
        test = done + number + 1
        return Outcome(status, f"test {test}: {shown(detail[:_OUTPUT_SHOWN])}", output=output, test=test)


class CallsUnanswered(Exception):
    """A program that was called and has not returned all its values: at which call, and why."""
