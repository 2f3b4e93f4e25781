"""The judge: runs the test code, and calls the program only through the wall.

What a test compares are values of a few exact types, decoded here, and handles of what stays with the program, whose
code never runs in this process.
"""

import ast
import builtins
import functools
import importlib
import math
import sys
import traceback
from typing import Any

from .codec import CodecError, unpack
from .foreign import EndedProgram, Incomparable, ProgramGone, RemoteProgram
from .recorded import RecordedProgram, RehearsedProgram, Unanswered, Unplanned, lenient
from .server import Wire, describe, rehearse, reply, serve, take_channels

_STATUS_OF = {"MemoryError": "out_of_memory", "PermissionError": "refused"}

_PASSED: dict[str, Any] = {"verdict": {"status": "passed", "detail": ""}, "test": -1}


class Namespace(dict):
    """Globals of a test: its own names, then the standard library and builtins, and only then the program's names.

    In this order a program cannot replace `all`, `set` or `math` under the test; the entry point is set explicitly.
    """

    def __init__(self, program: RemoteProgram, names: list[str], entry_point: str) -> None:
        super().__init__(__name__="test")
        self._program = program
        self._names = set(names)
        self._entry_point = entry_point

    def bind_entry_point(self) -> None:
        """Let the program's function take the place of a stub that the context defined."""
        self.pop(self._entry_point, None)
        if self._entry_point in self._names:
            self[self._entry_point] = self._program.handle(self._entry_point)

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        if name not in self._names:
            raise self._program.unknown(name)
        if name in sys.stdlib_module_names:
            return importlib.import_module(name)
        return self._program.ask("name", name)


def _run_test(job: Any, program: RemoteProgram, setup: str, test: Any) -> None:
    namespace = Namespace(program, job["names"], job["entry_point"])
    exec(_compiled(job["context"], "<context>"), namespace)
    namespace.bind_entry_point()
    exec(_compiled(setup, "<setup>"), namespace)
    exec(_compiled(test, "<test>") if isinstance(test, str) else test, namespace)


@functools.lru_cache(maxsize=1024)
def _compiled(source: str, name: str) -> Any:
    return compile(source, name, "exec", dont_inherit=True)


def _verdict(error: BaseException, test: str) -> dict[str, str]:
    """Why a test did not pass: its failing line and the error."""
    status = _STATUS_OF.get(getattr(error, "program_error", ""), "failed")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    where = f"{test.splitlines()[lines[-1] - 1].strip()}: " if lines and lines[-1] else ""
    if isinstance(error, Incomparable):
        return {"status": "cannot_be_compared", "detail": where + str(error)}
    return {"status": status, "detail": where + (getattr(error, "program_shown", "") or describe(error)[1])}


def run(job: Any, wire: Wire) -> int:
    """`code` tests, {"mode", "context", "entry_point", "names", "tests"} → {"verdict", "test"}; in a child.

    mode   recorded  what its "answers" decide, as in `decide`
           rehearse  {"calls"} that the tests will make, test by test; {} if that cannot be said
           converse  the program answers while they run
    """
    if job["mode"] != "converse":
        reply(wire, _asserted(job) if job["mode"] == "recorded" else _rehearsed(job))
        return 0
    program = RemoteProgram(wire)
    for number, (setup, test) in enumerate(job["tests"]):
        try:
            _run_test(job, program, setup, test)
            program.check_decided()
        except ProgramGone:
            return 0
        except BaseException as error:
            reply(wire, {"verdict": _verdict(error, test), "test": number})
            return 0
    reply(wire, _PASSED)
    return 0


def decide(job: Any, wire: Wire) -> None:
    """What a program's answers decide without it, in the warm process → a message.

    `call` tests        {"expected", "answers"} → {"verdict", "test"}
    planned assertions  {"tests", "entry_point", "calls", "answers"}, calls test by test → the same, or {"unplanned"},
                        or {"unanswered"} where the program's end decides; both are numbers of a test
    """
    reply(wire, _asserted(job) if "tests" in job else _compared(job["expected"], job["answers"]))


def _asserted(job: Any) -> dict[str, Any]:
    answers = job["answers"]
    for number, ((setup, test), calls) in enumerate(zip(job["tests"], job["calls"], strict=True)):
        program = RecordedProgram(job["entry_point"], calls, answers[: len(calls)])
        answers = answers[len(calls) :]
        try:
            _run_test(job, program, setup, test)
            program.check_decided()
            program.check_all_made()
        except Unplanned:
            return {"unplanned": number}
        except Unanswered:
            return {"unanswered": number}
        except (Exception, Incomparable) as error:
            return {"verdict": _verdict(error, test), "test": number}
    return _PASSED


def _rehearsed(job: Any) -> dict[str, Any]:
    plan = []
    for setup, test in job["tests"]:
        program = RehearsedProgram(job["entry_point"])
        try:
            _run_test(job, program, setup, lenient(test))
        except (Exception, Incomparable, Unplanned):
            return {}
        plan.append(program.calls)
    return {"calls": plan}


@functools.lru_cache(maxsize=4096)
def _literal(text: str) -> Any:
    return ast.literal_eval(text)


def _compared(expected: list[tuple[str, float]], answers: list[str]) -> dict[str, Any]:
    """The program's answers to `call` tests against the expected literals, each with how far a number may be off."""
    program, number = EndedProgram(), 0
    try:
        for number, (literal, atol) in enumerate(expected):
            if number == len(answers):
                raise CodecError("the program gave no answer")
            value = program.value_of(unpack(answers[number].encode("ascii")))
            if not _agrees(value, _literal(literal), atol):
                raise AssertionError(f"returned {repr(value)[:300]}, expected {literal[:300]}")
    except (Exception, Incomparable) as error:
        return {"verdict": _verdict(error, ""), "test": number}
    return _PASSED


def _agrees(value: Any, expected: Any, atol: float) -> bool:
    """Python's `==`; or, given a tolerance, values of one type whose numbers are close, as EvalPlus compares them."""
    return value == expected or (atol > 0 and type(value) is type(expected) and _is_close(value, expected, atol))


def _is_close(value: Any, expected: Any, atol: float) -> bool:
    """numpy's `allclose` with rtol 1e-7, for numbers and for lists and tuples of one shape; not for anything else."""
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(value) == len(expected) and all(_is_close(v, e, atol) for v, e in zip(value, expected, strict=True))
    if isinstance(value, (int, float, complex)) and isinstance(expected, (int, float, complex)):
        return value == expected or abs(value - expected) <= atol + 1e-7 * abs(expected) < math.inf
    return False


def start(order: Any) -> None:
    """Be a warm judge, as the harness's first message says."""
    wire, control = take_channels(order["streams"])
    sys.set_int_max_str_digits(0)
    test = {"context": "def f(x):\n    return x\n", "entry_point": "f", "names": ["f", "g"], "mode": "converse"}
    rehearse(run, [{"tests": [["", "def check(c):\n    assert c(1) == [1]\n\ncheck(f)"]], **test}])
    serve(order, wire, control, run, decide)
