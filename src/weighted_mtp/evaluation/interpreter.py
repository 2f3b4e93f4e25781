"""A warm confined interpreter seen from the harness: its pipes, its messages, and the limits that are watched."""

import os
import secrets
import select
import tempfile
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from weighted_mtp.errors import UserError
from weighted_mtp.evaluation import confinement
from weighted_mtp.evaluation.guest.codec import pack
from weighted_mtp.evaluation.guest.server import MARKER_BYTES
from weighted_mtp.evaluation.scratch import empty_folder, folder_bytes, remove_folder

Role = Literal["player", "judge"]
Interruption = Literal["failed", "timed_out", "refused"]

SCRATCH_MB = 16  # all of a program's files together
_TICK_SECONDS = 0.05  # how often a running program's CPU time and scratch folder are looked at
_START_SECONDS = 60.0
_HEADER_BYTES = 4

# The guest's modules come over the pipe: inside, the folder of this package cannot be read.
_BOOT = """
import json, os, sys, types
def take(size):
    data = b""
    while len(data) < size:
        chunk = os.read(0, size - len(data))
        if not chunk:
            raise SystemExit
        data += chunk
    return data
order = json.loads(take(int.from_bytes(take(4), "big")))
package = sys.modules["guest"] = types.ModuleType("guest")
package.__path__ = []
for name, source in order["modules"].items():
    module = sys.modules["guest." + name] = types.ModuleType("guest." + name)
    module.__package__ = "guest"
    exec(compile(source, name + ".py", "exec"), module.__dict__)
module.start(order)
"""


class Interrupted(Exception):
    """What runs must be killed: `status` and `detail` as in an Outcome."""

    def __init__(self, status: Interruption, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Lost(Exception):
    """The warm process is gone although nothing foreign was running: the machine's fault, not a program's."""


@dataclass(frozen=True)
class Exit:
    """A child ended: its wait status."""

    status: int


class ConfinedInterpreter:
    """A warm interpreter of one role in its own sandbox with its own folder, and the messages to and from it.

    Deadlines are `time.monotonic()` seconds. The limits are those of `confinement.start`.
    """

    def __init__(self, role: Role, memory_mb: int, processes: int, file_bytes: int) -> None:
        self._folder = confinement.Folder(Path(tempfile.mkdtemp(prefix="wmtp-sandbox-")))
        self._folder.scratch.mkdir()
        self._streams = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in self._folder.streams]
        self._marker = secrets.token_bytes(MARKER_BYTES)
        self._file_bytes = file_bytes
        self._replies = bytearray()
        self._control = bytearray()
        self._child: int | None = None  # None until the warm process has said it; 0 for a job without a child
        self._exit: Exit | None = None
        self._process: Any = None
        try:
            self._process = confinement.start(_BOOT, self._folder, memory_mb, processes, file_bytes)
            self._boot(role)
        except BaseException:
            self.close()
            raise

    def _boot(self, role: Role) -> None:
        sources = resources.files("weighted_mtp.evaluation.guest")
        order = {
            "modules": {name: (sources / f"{name}.py").read_text("utf-8") for name in ("codec", "server", role)},
            "files": [str(path) for path in self._folder.streams],
            "marker": self._marker.hex(),
        }
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            os.set_blocking(stream.fileno(), False)
        deadline = time.monotonic() + _START_SECONDS
        try:
            self._write(_framed(pack(order)), deadline)
            while (line := self._next_line()) is None:
                self._wait(deadline)
        except (Interrupted, Lost) as error:
            said = self._control.decode(errors="replace").strip().splitlines()
            raise UserError(f"evaluation: the confined interpreter does not start: {said[-1:] or error}") from error
        assert line == b"ready", line

    def begin(self, job: dict[str, Any], deadline: float, stdin: str = "") -> None:
        """Give the warm process a job. Raises Lost if there is none."""
        self._fill_streams(stdin)
        self._child, self._exit = (0 if job.get("here") else None), None
        self._write(self._marker + _framed(pack(job)), deadline)

    def _fill_streams(self, stdin: str) -> None:
        for descriptor in self._streams:
            if os.fstat(descriptor).st_size:
                os.ftruncate(descriptor, 0)
        if stdin:
            os.pwrite(self._streams[0], stdin.encode(), 0)

    def send(self, payload: bytes, deadline: float) -> None:
        """A message to the running child."""
        self._write(_framed(payload), deadline)

    def _write(self, data: bytes, deadline: float) -> None:
        descriptor, rest = self._process.stdin.fileno(), memoryview(data)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                if not _poll([(descriptor, select.POLLOUT)], deadline - time.monotonic()):
                    raise Interrupted("timed_out", "wall time") from None
            except BrokenPipeError:
                raise self._death() from None

    def receive(self, deadline: float, cpu_seconds: float) -> bytes | Exit:
        """The child's next message, or that it ended.

        Raises Interrupted at a limit, for a broken message, or where the child took the warm process with it; Lost
        where there was no child yet.
        """
        last_look = time.monotonic()
        while True:
            message = self._next_message()
            if message is not None:
                return message
            if self._read(self._process.stdout, self._replies):
                self._check_wall(deadline)  # a program that dribbles keeps this loop from its tick
                continue
            if self._exit is not None:
                return self._exit
            line = self._next_line()
            if line is None:
                self._wait(min(deadline, last_look + _TICK_SECONDS))
                if time.monotonic() >= last_look + _TICK_SECONDS:
                    self._check_wall(deadline)
                    self._check_use(cpu_seconds)
                    last_look = time.monotonic()
            elif self._child is None:
                self._child = int(line)
            else:
                self._exit = Exit(int(line))  # what the child said before it ended is read first

    def _wait(self, until: float) -> None:
        """Until either pipe has something to read, at most to a time."""
        pipes = (self._process.stdout, self._process.stderr)
        _poll([(pipe.fileno(), select.POLLIN) for pipe in pipes], until - time.monotonic())

    def _read(self, pipe: Any, into: bytearray) -> bool:
        """Append what is there; whether it was anything. Raises as `_death` at the pipe's end."""
        try:
            chunk = os.read(pipe.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        if not chunk:
            self._read_last_words()
            raise self._death()
        into += chunk
        return True

    def _read_last_words(self) -> None:
        try:
            self._control += os.read(self._process.stderr.fileno(), 1 << 16)
        except BlockingIOError:
            return

    def _next_line(self) -> bytes | None:
        """The next line on the control pipe, which only the warm process can write; None if it is not there yet."""
        if b"\n" not in self._control and not self._read(self._process.stderr, self._control):
            return None
        line, newline, rest = self._control.partition(b"\n")
        if not newline:
            return None
        self._control = rest
        return bytes(line)

    def _next_message(self) -> bytes | None:
        if len(self._replies) < _HEADER_BYTES:
            return None
        end = _HEADER_BYTES + int.from_bytes(self._replies[:_HEADER_BYTES], "big")
        if end > self._file_bytes + 4096:
            raise Interrupted("failed", "the program wrote on the sandbox's own pipe")
        if len(self._replies) < end:
            return None
        message = bytes(self._replies[_HEADER_BYTES:end])
        del self._replies[:end]
        return message

    def _death(self) -> Exception:
        if self._child is None:
            return Lost("the warm interpreter died")
        return Interrupted("failed", "the program brought its interpreter down")

    def _check_wall(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise Interrupted("timed_out", "wall time")

    def _check_use(self, cpu_seconds: float) -> None:
        if self._child and _cpu_clock(self._child) > cpu_seconds:
            raise Interrupted("timed_out", f"{cpu_seconds:g} s of CPU time")
        if folder_bytes(self._folder.scratch) > SCRATCH_MB << 20:
            raise Interrupted("refused", f"wrote more than {SCRATCH_MB} MiB of files")

    def output(self) -> tuple[str, str]:
        """What the program wrote: (standard output, standard error)."""
        out, err = (os.pread(descriptor, self._file_bytes, 0) for descriptor in self._streams[1:])
        return out.decode(errors="replace"), err.decode(errors="replace")

    def clear(self) -> None:
        """Make ready for the next job once the child has ended: drop what nobody read, empty the scratch folder."""
        self._replies.clear()
        empty_folder(self._folder.scratch)

    def kill(self) -> None:
        """Kill everything inside, from any thread; whoever waits for a message learns that the process died."""
        self._process.kill()

    def close(self) -> None:
        """Kill everything inside, and remove the folder."""
        if self._process is not None:
            self._process.__exit__(None, None, None)
        for descriptor in self._streams:
            os.close(descriptor)
        remove_folder(self._folder.root)


def _framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(_HEADER_BYTES, "big") + payload


def _poll(events: list[tuple[int, int]], seconds: float) -> bool:
    poller = select.poll()
    for descriptor, event in events:
        poller.register(descriptor, event)
    return bool(poller.poll(max(0.0, seconds) * 1000))


def _cpu_clock(pid: int) -> float:
    """CPU seconds of a process by the kernel's clock of it (clock_getcpuclockid(3)); 0 when it has just ended."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0
