"""The judge: runs the test code, and calls the program only through the wall.

What a test compares are values of exact builtin types, decoded here. The program's code never runs in this process.
"""

import ast
import builtins
import functools
import importlib
import math
import sys
import traceback
from typing import Any

from .codec import CodecError, from_plain, to_plain, unpack
from .server import Wire, describe, rehearse, reply, serve, take_channels

# Raised as they are, these would steer the test's own control flow instead of failing it.
_CONTROL_FLOW = ("StopIteration", "StopAsyncIteration", "GeneratorExit", "SystemExit", "KeyboardInterrupt")

_PASSED: dict[str, Any] = {"verdict": {"status": "passed", "detail": ""}, "test": -1}


class ProgramGone(BaseException):
    """The harness says that the program no longer runs: there is nobody to call."""


class Unplanned(BaseException):
    """The test code does something else than was planned for it: it is to be run before the program itself."""


class Unanswered(BaseException):
    """The program came to its end before it answered this call."""


class Handle:
    """A function, class or object of the program: equal to itself only, used by messages only."""

    __slots__ = ("_plain", "_program")

    def __init__(self, program: "Program", plain: list[Any]) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_plain", plain)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._program.ask("call", self, list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols of copy, pickle and format are not the program's business
            raise AttributeError(name)
        return self._program.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._program.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._program.ask("put", self, key, value)

    def __len__(self) -> int:
        return self._program.ask("len", self)

    def __bool__(self) -> bool:
        return bool(self._program.ask("bool", self))

    def __iter__(self) -> Any:
        return self._program.ask("iter", self)

    def __next__(self) -> Any:
        try:
            return self._program.ask("next", self)
        except RuntimeError as error:
            if getattr(error, "program_error", None) == "StopIteration":
                raise StopIteration from None
            raise


class Program:
    """The other side of the wall."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._handles: dict[tuple[str, Any], Handle] = {}

    def handle(self, tag: str, key: Any) -> Handle:
        """The one Handle of a name or number, so that identity holds."""
        if (tag, key) not in self._handles:
            self._handles[tag, key] = Handle(self, [tag, key])
        return self._handles[tag, key]

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Have the program do something → its value. Raises what the program raised, as the nearest builtin class."""
        reply(self._wire, [operation, *[to_plain(argument, _refer) for argument in arguments]])
        answer = self._wire.receive()
        if answer == "gone":
            raise ProgramGone
        return from_plain(_value_of(answer), self.handle)


class RecordedProgram(Program):
    """A program that has answered all calls of a test beforehand, up to its end.

    calls    the argument tuples that were planned, in the codec's plain form
    answers  what the program said to them, packed; there may be fewer
    """

    def __init__(self, calls: list[Any], answers: list[str]) -> None:
        super().__init__(Wire(-1, -1))
        self._calls = calls
        self._answers = answers
        self._made = 0

    def ask(self, operation: str, *arguments: Any) -> Any:
        """The recorded value. Raises what the program raised, Unplanned for any other question, Unanswered."""
        if operation != "call" or self._made == len(self._calls) or arguments[2]:
            raise Unplanned
        if repr(tuple(arguments[1])) != repr(from_plain(self._calls[self._made], self.handle)):
            raise Unplanned
        if self._made == len(self._answers):
            raise Unanswered
        self._made += 1
        return from_plain(_value_of(unpack(self._answers[self._made - 1].encode("ascii"))), self.handle)

    def check_all_made(self) -> None:
        """Raises Unplanned where a planned call was not made."""
        if self._made < len(self._calls):
            raise Unplanned


def _value_of(answer: Any) -> Any:
    """The plain value in a program's answer. Raises what the program raised, or CodecError for nonsense."""
    if not isinstance(answer, dict) or not answer.keys() & {"value", "error"}:
        raise CodecError("the program answered out of turn")
    if "error" in answer:
        raise _as_builtin(answer["error"])
    return answer["value"]


def _refer(value: Any) -> list[Any]:
    if isinstance(value, Handle):
        return object.__getattribute__(value, "_plain")
    raise TypeError(f"a test cannot hand a {type(value).__name__} to the program: only literals, containers and the "
                    "program's own objects cross the sandbox")  # fmt: skip


def _as_builtin(error: Any) -> Exception:
    """[class name, text] → an exception to raise, marked as the program's."""
    if not (isinstance(error, list) and len(error) == 2 and all(isinstance(part, str) for part in error)):
        return CodecError("the program answered out of turn")
    name, text = error
    kind = getattr(builtins, name, None)
    if name in _CONTROL_FLOW or not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    try:
        raised = kind(text)
    except TypeError:  # UnicodeDecodeError and its like need more than a text
        raised = ValueError(text)
    raised.__dict__.update(program_error=name, program_text=text)
    return raised


class Namespace(dict):
    """Globals of a test: its own names, then the standard library and builtins, and only then the program's names.

    In this order a program cannot replace `all`, `set` or `math` under the test; the entry point is set explicitly.
    """

    def __init__(self, program: Program, names: list[str], entry_point: str) -> None:
        super().__init__(__name__="test")
        self._program = program
        self._names = set(names)
        self._entry_point = entry_point

    def bind_entry_point(self) -> None:
        """Let the program's function take the place of a stub that the context defined."""
        self.pop(self._entry_point, None)
        if self._entry_point in self._names:
            self[self._entry_point] = self._program.handle("n", self._entry_point)

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name) or name not in self._names:
            raise KeyError(name)
        if name in sys.stdlib_module_names:
            return importlib.import_module(name)
        return self._program.handle("n", name)


def _run_test(job: Any, program: Program, setup: str, test: str) -> None:
    namespace = Namespace(program, job["names"], job["entry_point"])
    exec(_compiled(job["context"], "<context>"), namespace)
    namespace.bind_entry_point()
    exec(_compiled(setup, "<setup>"), namespace)
    exec(_compiled(test, "<test>"), namespace)


@functools.lru_cache(maxsize=1024)
def _compiled(source: str, name: str) -> Any:
    return compile(source, name, "exec", dont_inherit=True)


def _verdict(error: BaseException, test: str) -> dict[str, str]:
    """Why a test did not pass: its failing line and the error."""
    name = getattr(error, "program_error", "")
    status = "out_of_memory" if name == "MemoryError" else "refused" if name == "PermissionError" else "failed"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    where = f"{test.splitlines()[lines[-1] - 1].strip()}: " if lines and lines[-1] else ""
    return {"status": status, "detail": where + (getattr(error, "program_text", "") or describe(error)[1])}


def run(job: Any, wire: Wire) -> int:
    """`code` tests, {"context", "entry_point", "names", "tests"} → a {"verdict", "test"} message; in a child."""
    program = Program(wire)
    for number, (setup, test) in enumerate(job["tests"]):
        try:
            _run_test(job, program, setup, test)
        except ProgramGone:
            return 0
        except BaseException as error:
            reply(wire, {"verdict": _verdict(error, test), "test": number})
            return 0
    reply(wire, _PASSED)
    return 0


def decide(job: Any, wire: Wire) -> None:
    """What is decided by a program's answers alone, in the warm process → a message.

    `call` tests        {"expected", "answers"} → {"verdict", "test"}
    planned assertions  {"tests", "entry_point", "calls", "answers"}, calls test by test → the same, or {"unplanned"},
                        or {"unanswered"} where the program's end decides; both are numbers of a test
    """
    reply(wire, _asserted(job) if "tests" in job else _compared(job["expected"], job["answers"]))


def _asserted(job: Any) -> dict[str, Any]:
    context = {"context": "", "entry_point": job["entry_point"], "names": [job["entry_point"]]}
    answers = job["answers"]
    for number, ((setup, test), calls) in enumerate(zip(job["tests"], job["calls"], strict=True)):
        program = RecordedProgram(calls, answers[: len(calls)])
        answers = answers[len(calls) :]
        try:
            _run_test(context, program, setup, test)
            program.check_all_made()
        except Unplanned:
            return {"unplanned": number}
        except Unanswered:
            return {"unanswered": number}
        except Exception as error:
            return {"verdict": _verdict(error, test), "test": number}
    return _PASSED


class ProgramObject:
    """Stands for an object of the program: equal to nothing, and shown without an address."""

    def __repr__(self) -> str:
        return "an object"


@functools.lru_cache(maxsize=4096)
def _literal(text: str) -> Any:
    return ast.literal_eval(text)


def _compared(expected: list[tuple[str, float]], answers: list[str]) -> dict[str, Any]:
    """The program's answers to `call` tests against the expected literals, each with how far a number may be off."""
    number = 0
    try:
        for number, (literal, atol) in enumerate(expected):
            if number == len(answers):
                raise CodecError("the program gave no answer")
            value = from_plain(_value_of(unpack(answers[number].encode("ascii"))), lambda tag, key: ProgramObject())
            if not _agrees(value, _literal(literal), atol):
                raise AssertionError(f"returned {repr(value)[:300]}, expected {literal[:300]}")
    except Exception as error:
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
    test = {"context": "def f(x):\n    return x\n", "entry_point": "f", "names": ["f", "g"]}
    rehearse(run, [{"tests": [["", "def check(c):\n    assert c(1) == [1]\n\ncheck(f)"]], **test}])
    serve(order, wire, control, run, decide)
