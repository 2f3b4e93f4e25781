"""A warm interpreter: it is confined once, and forks once per job, before it reads it: the memory that a program
inherits holds nothing of the programs before.

Three channels, which are sockets, join it to the harness. `requests` carries jobs to the warm process and, while a job
runs, messages to its child; `replies` carries the child's messages; `control` carries what became of the child. The
child closes `control` before it runs anything foreign, so a program cannot say how it ended.
"""

import builtins
import errno
import gc
import os
import random
import resource
from collections.abc import Callable
from typing import Any

from .codec import pack, unpack
from .emptying import empty_folder
from .lockdown import Lock, lock_down

MARKER_BYTES = 16
FORK, HERE = b"\0", b"\1"  # what follows a marker: the job is run by a fork, or by the warm process itself
_HEADER_BYTES = 4
_REHEARSALS = 20
_SCRATCH = os.getcwd()  # noqa: PTH109 - a text; inside, every interpreter starts there
_FORBIDDEN = (
    *(errno.EPERM, errno.EACCES, errno.EAGAIN, errno.EROFS),
    *(errno.EFBIG, errno.EMFILE, errno.ENOSPC, errno.EXDEV),
)


class Wire:
    """Messages with a length in front, over the two channels that a child shares with its warm parent."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests = requests
        self._replies = replies

    def _read(self, size: int) -> bytes:
        chunks = []
        while size:
            chunk = os.read(self._requests, min(size, 1 << 20))
            if not chunk:
                raise EOFError
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def receive(self) -> Any:
        """The next message. Raises EOFError when the harness is gone."""
        return unpack(self._read(int.from_bytes(self._read(_HEADER_BYTES), "big")))

    def skip_to(self, marker: bytes) -> None:
        """Drop what an earlier child left unread: a job starts after the marker.

        The marker is made of bytes that no message holds (see `codec.pack`), so nothing that the harness passes on for
        a program can pass for a job, even though the program may know the marker.
        """
        window = self._read(len(marker))
        while window != marker:
            window = window[1:] + self._read(1)

    def is_here(self) -> bool:
        """Whether the job after a marker is for the warm process itself."""
        return self._read(1) == HERE

    def send(self, payload: bytes) -> None:
        """Write one packed message."""
        rest = memoryview(len(payload).to_bytes(_HEADER_BYTES, "big") + payload)
        while rest:
            rest = rest[os.write(self._replies, rest) :]

    def mend(self) -> None:
        """Undo what a child may have done to the channels' own state, which it shares."""
        os.set_blocking(self._requests, True)
        os.set_blocking(self._replies, True)


Run = Callable[[Any, Wire], Any]


def take_channels(streams: list[int]) -> tuple[Wire, int]:
    """Take the three channels away from descriptors 0, 1, 2, and put the program's streams there → (wire, control)."""
    wire, control = Wire(os.dup(0), os.dup(1)), os.dup(2)
    for target, descriptor in enumerate(streams):
        os.dup2(descriptor, target)
        os.close(descriptor)
    return wire, control


def rehearse(run: Run, jobs: list[Any]) -> None:
    """Read and run harmless jobs in the warm process, answers to nowhere, so that each child inherits warm code.

    CPython specialises bytecode as it runs; without this every child would begin cold (measured: 0.5 to 1 ms each).
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    outlet, inlet = os.pipe()
    for job in jobs * _REHEARSALS:
        Wire(outlet, inlet).send(pack(job))
        run(Wire(outlet, nowhere).receive(), Wire(nowhere, nowhere))
    for descriptor in (nowhere, outlet, inlet):
        os.close(descriptor)


def serve(order: Any, wire: Wire, control: int, run: Run, run_here: Run | None = None) -> None:
    """Give up all rights that are not needed, and run each job in a fork of this process until the harness hangs up.

    order     {"marker", "limits", "strict"} of the harness's first message
    run       (job, wire) → exit code of the child; it may run foreign code
    run_here  for jobs without foreign code, marked HERE: in this process

    `control` gets "ready" once, and of each child: wait status, whether the scratch folder is empty again, and CPU
    seconds.
    """
    gc.collect()
    gc.freeze()  # children share these pages as long as nobody's collector touches them
    lock = lock_down(order["limits"], order["strict"])
    marker = bytes.fromhex(order["marker"])
    nothing = os.open(os.devnull, os.O_RDWR)
    os.write(control, b"ready\n")
    while True:
        try:
            wire.skip_to(marker)
            if wire.is_here():
                assert run_here is not None
                run_here(wire.receive(), wire)
                continue
        except EOFError:
            return
        random.seed(0)  # the same program gives the same verdict
        child = os.fork()
        if child == 0:
            os.dup2(nothing, control)
            os._exit(_run_as_child(wire, run, lock))
        _, status, use = os.wait4(child, 0)
        wire.mend()
        os.write(control, b"%d %d %.6f\n" % (status, _is_emptied(), use.ru_utime + use.ru_stime))


def _run_as_child(wire: Wire, run: Run, lock: Lock | None) -> int:
    try:
        job = wire.receive()
    except EOFError:  # the harness is gone
        return 1
    cpu_seconds = job["cpu_seconds"]  # the kernel's own watch, should the harness's fail
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["output_bytes"], job["output_bytes"]))
    if lock is not None:
        lock.become_program()
    return int(run(job, wire))


def _is_emptied() -> bool:
    try:
        empty_folder(_SCRATCH)
    except OSError:
        return False
    return True


def builtin_base(kind: type) -> type:
    """The nearest of a class and those it derives from that is a builtin."""
    return next(base for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base)


def describe(error: BaseException) -> list[str]:
    """An exception as [name of its nearest builtin class, what to show a reader].

    What the sandbox forbids comes as several errors of the system; all are called PermissionError here.
    """
    base = builtin_base(type(error))
    if isinstance(error, OSError) and _is_refusal(error):
        base = PermissionError
    try:
        text = str(error)
    except BaseException:  # a program's own __str__ may do anything
        text = "<unprintable>"
    return [base.__name__, f"{type(error).__name__}: {text}"[:2000] if text else type(error).__name__]


def _is_refusal(error: OSError) -> bool:
    """Whether the sandbox is why: also where a file is missing, since inside there are none but the program's own."""
    if error.errno == errno.ENOENT:
        return isinstance(error.filename, str) and error.filename.startswith("/") and _SCRATCH not in error.filename
    return error.errno in _FORBIDDEN


def reply(wire: Wire, message: Any) -> None:
    """Pack and send."""
    wire.send(pack(message))
