"""The player: runs a program, and answers calls of its functions. It never sees an expected value or a test."""

import atexit
import importlib
import site
import sys
import traceback
import types
import warnings
from collections.abc import Callable
from typing import Any

from .codec import CodecError, from_plain, pack, to_plain
from .server import Wire, describe, rehearse, reply, serve, take_channels

# What programs of the benchmarks import most: paid once by the warm process, not by each program. Without `threading`
# and what imports it: its handler in the forked child would cost each program 0.5 ms.
PRELOAD = """
    array bisect cmath collections copy datetime decimal fractions functools heapq itertools json math
    operator random re statistics string time typing
"""


class Objects:
    """The program's own objects that crossed the wall as handles."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._kept: list[Any] = []
        self._number: dict[int, int] = {}

    def refer(self, value: Any) -> list[Any]:
        """The handle of an object; the same object keeps its number."""
        if id(value) not in self._number:
            self._number[id(value)] = len(self._kept)
            self._kept.append(value)  # keeps the object alive, so its id stays its own
        return ["h", self._number[id(value)]]

    def resolve(self, tag: str, key: Any) -> Any:
        """A handle or a name → the object."""
        return self._namespace[key] if tag == "n" else self._kept[key]

    def decode(self, plain: Any) -> Any:
        return from_plain(plain, self.resolve)

    def encode(self, value: Any) -> Any:
        return to_plain(value, self.refer)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, args, kwargs: function(*args, **kwargs),
    "get": getattr,
    "set": setattr,
    "item": lambda value, key: value[key],
    "put": lambda value, key, item: value.__setitem__(key, item),
    "len": len,
    "bool": bool,
    "iter": iter,
    "next": next,
}


def _answer(objects: Objects, limit: int, compute: Callable[[], Any]) -> bytes:
    """The packed value of a computation, or its error."""
    try:
        payload = pack({"value": objects.encode(compute())})
    except BaseException as error:  # SystemExit too: leaving is not an answer
        return pack({"error": describe(error)})
    if len(payload) > limit:
        what = f"the answer takes {len(payload)} bytes, more than {limit}"
        return pack({"error": ["ValueError", what], "bytes": len(payload)})
    return payload


def _load(job: Any, wire: Wire, name: str) -> dict[str, Any] | None:
    """Compile and run the program as module `name`; None where that failed and the reply says how."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    try:
        code = compile(job["program"], "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        reply(wire, {"broken": describe(error)[1]})
        return None
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        reply(wire, {"error": describe(error)})
        return None
    return module.__dict__


def _answer_calls(job: Any, wire: Wire) -> None:
    """`call` tests: one answer each, up to the first error, or to the end where that is wanted."""
    namespace = _load(job, wire, "program")
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
    """`code` tests: do what the judge asks until it asks for the end."""
    namespace = _load(job, wire, "program")
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
                lambda: _OPERATIONS[operation](*map(objects.decode, arguments)),  # noqa: B023
            )
        )


def _run_main(job: Any, wire: Wire) -> int:
    """`stdio` tests: the whole life of a script, with its threads and exit handlers."""
    try:
        code = _exit_code_of_script(job, wire)
        if "threading" in sys.modules:
            _join_threads(sys.modules["threading"])
        atexit._run_exitfuncs()
        output = getattr(sys, "stdout", None)
        if output is not None and not getattr(output, "closed", False):  # `with sys.stdout as out:` closes it
            output.flush()
    except BaseException as error:
        reply(wire, {"error": describe(error)})
        return 1
    return code


def _join_threads(threading: Any) -> None:
    """Wait for the threads that an interpreter waits for at its end."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()


def _exit_code_of_script(job: Any, wire: Wire) -> int:
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        code = compile(job["program"], "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        reply(wire, {"broken": describe(error)[1]})
        return 1
    try:
        exec(code, module.__dict__)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:
        traceback.print_exc()
        reply(wire, {"error": describe(error)})
        return 1
    return 0


def run(job: Any, wire: Wire) -> int:
    """One job in its own process: {"mode": calls | serve | main, "program", "limit", …} → exit code."""
    warnings.simplefilter("ignore")
    if job["mode"] == "main":
        return _run_main(job, wire)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # what a killed program said is kept
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
    for name in PRELOAD.split():
        importlib.import_module(name)
    sys.set_int_max_str_digits(0)  # an answer may be a number of 10,000 digits; CPU time bounds the cost
    site.setquit()  # scripts call exit()
    program = {"program": "def f(x):\n    return [x]\n", "entry_point": "f", "calls": [["t", 1]] * 3, "limit": 1000}
    rehearse(run, [{"mode": mode, **program} for mode in ("calls", "serve")])
    del sys.modules["program"]
    serve(order, wire, control, run)
