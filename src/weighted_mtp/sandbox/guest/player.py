"""The player: runs a program, and answers calls of its functions. It never sees an expected value or a test."""

import contextlib
import importlib
import site
import sys
import warnings
from collections.abc import Callable
from typing import Any

from .codec import CodecError, deep_recursion, pack
from .ending import FLUSH_FAILED, end_script, exit_code, remember
from .imports import allow_packages
from .objects import Objects
from .server import Wire, describe, rehearse, reply, serve, take_channels
from .surroundings import NAME, Program, name_streams, new_streams, take_place

# What programs of the benchmarks import most: paid once by the warm process, not by each program. Without `threading`
# and what imports it: its handler in the forked child would cost each program 0.5 ms.
PRELOAD = """
    array bisect cmath collections copy datetime decimal fractions functools heapq itertools json math
    operator random re statistics string time typing
"""


def _answer(objects: Objects, limit: int, compute: Callable[[], Any]) -> bytes:
    """The packed value of a computation, or its error."""
    try:
        value = compute()
    except BaseException as error:  # SystemExit too: leaving is not an answer
        return _error(objects, limit, error)
    try:
        with deep_recursion():
            payload = pack({"value": objects.encode(value)})
    except RecursionError:  # nested too deeply, or in itself
        payload = pack({"value": objects.reference(value)})
    except BaseException as error:
        return _error(objects, limit, error)
    if len(payload) > limit:
        what = f"the answer takes {len(payload)} bytes, more than {limit}"
        return pack({"error": ["ValueError", what], "bytes": len(payload)})
    return payload


def _error(objects: Objects, limit: int, error: BaseException) -> bytes:
    """The packed form of an exception, as much of it as can be told."""
    said: dict[str, Any] = {"error": describe(error)}
    try:
        payload = pack({**said, "raised": objects.raised(error)})
    except BaseException:  # the program's own `__str__` or arguments may be anything
        return pack(said)
    return payload if len(payload) <= limit else pack(said)


def _compiled(job: Any, wire: Wire, name: str) -> Program | None:
    """The program as module `name`; None if it is not Python and the reply says why."""
    try:
        return Program(job["program"], name)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        reply(wire, {"broken": describe(error)[1]})
        return None


def _load(job: Any, wire: Wire) -> dict[str, Any] | None:
    """Compile and run the program as a module; None if that failed and the reply says how."""
    program = _compiled(job, wire, "program")
    if program is None:
        return None
    try:
        program.run()
    except BaseException as error:
        reply(wire, {"error": describe(error)})
        return None
    return program.namespace


def _answer_calls(job: Any, wire: Wire) -> None:
    """`call` tests: one answer each, up to the first error, or to the end if that is wanted."""
    namespace = _load(job, wire)
    if namespace is None:
        return
    reply(wire, {"names": []})
    objects = Objects(namespace)
    for arguments in job["calls"]:
        payload = _answer(
            objects,
            job["limit"],
            lambda: _call(namespace, job["entry_point"], objects.decode(arguments)),  # noqa: B023
        )
        wire.send(payload)
        if payload.startswith(b'{"error"') and not job.get("to_the_end"):
            return


def _call(namespace: dict[str, Any], entry_point: str, arguments: tuple[Any, ...]) -> Any:
    if entry_point not in namespace:
        raise NameError(f"the program does not define {entry_point}")
    return namespace[entry_point](*arguments)


def _serve_judge(job: Any, wire: Wire) -> None:
    """`code` tests: do what the judge requests until it requests the end."""
    namespace = _load(job, wire)
    if namespace is None:
        return
    reply(wire, {"names": [name for name in namespace if isinstance(name, str)]})
    objects = Objects(namespace)
    while (request := wire.receive()) != "end":
        operation, *arguments = request
        wire.send(
            _answer(
                objects,
                job["limit"],
                lambda: objects.ask(operation, *arguments),  # noqa: B023
            )
        )


def _run_script(job: Any, wire: Wire) -> int:
    """`stdio` tests: the whole life of a script → its exit code."""
    sys.stdout.reconfigure(line_buffering=False)  # type: ignore[union-attr]
    program = _compiled(job, wire, "__main__")
    if program is None:
        return 1
    code = _code_of(program, wire)
    del program  # so that the module's own names are all that keeps its objects
    return code if end_script() else FLUSH_FAILED


def _code_of(program: Program, wire: Wire) -> int:
    """The exit code of a script; a message says what ended it, unless it left by itself."""
    try:
        program.run()
    except SystemExit as leaving:
        return exit_code(leaving)
    except BaseException as error:
        said = describe(error)
        with contextlib.suppress(BaseException):  # the hook may be the program's own, and standard error closed
            trace = _within(error.__traceback__)
            sys.excepthook(type(error), error.with_traceback(trace), trace)
        reply(wire, {"error": said})
        return 1
    return 0


def _within(trace: Any) -> Any:
    """The part of a traceback that is the program's own."""
    while trace is not None and trace.tb_frame.f_code.co_filename != NAME:
        trace = trace.tb_next
    return trace


def run(job: Any, wire: Wire) -> int:
    """One job in its own process: {"mode": calls | serve | main, "program", "limit", …} → exit code."""
    if job["mode"] == "main":
        return _run_script(job, wire)
    try:
        (_answer_calls if job["mode"] == "calls" else _serve_judge)(job, wire)
    except (CodecError, EOFError, OSError):
        return 1
    finally:
        _flush()
    return 0


def _flush() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # the program may have replaced or closed them
        return


def start(order: Any) -> None:
    """Be a warm player, as the harness's first message says."""
    wire, control = take_channels(order["streams"])
    new_streams()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # what a killed program said is kept
    name_streams()
    warnings.simplefilter("ignore")
    for name in PRELOAD.split():
        importlib.import_module(name)
    allow_packages(order["packages"], order["places"])
    take_place()
    sys.set_int_max_str_digits(0)  # an answer may be a number of 10,000 digits; CPU time bounds the cost
    site.setquit()  # scripts call exit()
    site.setcopyright()
    site.sethelper()
    program = {"program": "def f(x):\n    return [x]\n", "entry_point": "f", "calls": [["t", 1]] * 3, "limit": 1000}
    rehearse(run, [{"mode": mode, **program} for mode in ("calls", "serve")])
    del sys.modules["program"]
    remember()
    serve(order, wire, control, run)
