"""A warm interpreter: it is confined once, and forks once per job.

Three pipes join it to the harness. `requests` carries jobs to the warm process and, while a job runs, messages to its
child; `replies` carries the child's messages; `control` carries the child's process id and exit status. The child
closes `control` before it runs anything foreign, so a program cannot say how it ended.
"""

import builtins
import ctypes
import errno
import gc
import os
import random
import signal
from collections.abc import Callable
from typing import Any

from .codec import pack, unpack

MARKER_BYTES = 16
_HEADER_BYTES = 4
_PR_SET_PDEATHSIG = 1
_REHEARSALS = 20
_FORBIDDEN = (errno.EPERM, errno.EACCES, errno.EAGAIN, errno.EFBIG, errno.EMFILE, errno.EXDEV)


class Wire:
    """Messages with a length in front, over the two pipes that a child shares with its warm parent."""

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
        """Drop what an earlier child left unread: a job starts after the marker, which no program can write here."""
        window = self._read(len(marker))
        while window != marker:
            window = window[1:] + self._read(1)

    def send(self, payload: bytes) -> None:
        """Write one packed message."""
        rest = memoryview(len(payload).to_bytes(_HEADER_BYTES, "big") + payload)
        while rest:
            rest = rest[os.write(self._replies, rest) :]


def move_pipes(files: list[str]) -> tuple[Wire, int]:
    """Take the three pipes away from descriptors 0, 1, 2, and put the given files there → (wire, control)."""
    wire, control = Wire(os.dup(0), os.dup(1)), os.dup(2)
    for target, path in enumerate(files):
        opened = os.open(path, os.O_RDONLY if target == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, target)
        os.close(opened)
    return wire, control


def rehearse(run: Callable[[Any, Wire], int], jobs: list[Any]) -> None:
    """Run harmless jobs in the warm process, answers to nowhere, so that each child inherits code that is warmed up.

    CPython specialises bytecode as it runs; without this every child would begin cold (measured: 0.5 to 1 ms each).
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for job in jobs * _REHEARSALS:
        run(job, Wire(nowhere, nowhere))
    os.close(nowhere)


def serve(wire: Wire, control: int, marker: bytes, run: Callable[[Any, Wire], int]) -> None:
    """Run each job in a fork of this process until the harness hangs up.

    `run(job, wire)` returns the exit code of the child. The control pipe gets "pid\\n", then "wait status\\n".
    A job that holds no foreign code says so by {"here": true} and runs in this process, without the two lines.
    """
    gc.collect()
    gc.freeze()  # children share these pages as long as nobody's collector touches them
    libc = ctypes.CDLL(None)
    os.write(control, b"ready\n")
    while True:
        try:
            wire.skip_to(marker)
            job = wire.receive()
        except EOFError:
            return
        if job.get("here"):
            run(job, wire)
            continue
        child = os.fork()
        if child == 0:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a program does not outlive a harness that is killed
            os.close(control)
            random.seed(0)  # the same program gives the same verdict
            os._exit(run(job, wire))
        os.write(control, b"%d\n" % child)
        os.write(control, b"%d\n" % os.waitpid(child, 0)[1])


def describe(error: BaseException) -> list[str]:
    """An exception as [name of its nearest builtin class, what to show a reader].

    What the sandbox forbids comes as several errors of the system; all are called PermissionError here.
    """
    base = next(kind for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind)
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        base = PermissionError
    try:
        text = str(error)
    except BaseException:  # a program's own __str__ may do anything
        text = "<unprintable>"
    return [base.__name__, f"{type(error).__name__}: {text}"[:2000] if text else type(error).__name__]


def reply(wire: Wire, message: Any) -> None:
    """Pack and send."""
    wire.send(pack(message))
