"""A warm isolated interpreter seen from the harness: its messages, and the limits that are watched."""

import contextlib
import fcntl
import os
import secrets
import select
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple

from weighted_mtp.errors import UserError
from weighted_mtp.sandbox import confinement
from weighted_mtp.sandbox.boot import BOOT, Role, modules
from weighted_mtp.sandbox.guest.codec import pack
from weighted_mtp.sandbox.guest.server import FORK, HERE, MARKER_BYTES
from weighted_mtp.sandbox.packages import Packages
from weighted_mtp.sandbox.processes import children, cpu_clock, innermost, threads
from weighted_mtp.sandbox.scratch import ScratchFolder, folder_bytes

Interruption = Literal["failed", "timed_out", "refused"]

WALL_TIME, CPU_TIME = "wall time", "CPU time"  # which limit an interruption is about
OFF_SCRIPT = "the program wrote on the sandbox's own channel"
_THREADS = 256  # of one program
_TICK_SECONDS = 0.05  # how often a running program's CPU time, threads and scratch folder are looked at
_QUICK_SECONDS = 0.02  # what most programs take at most
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0  # for a killed child to be gone
_HEADER_BYTES = 4


class Confinement(NamedTuple):
    """What an interpreter is started with, for all its programs: see `confinement.start` and `.limits`."""

    isolation: confinement.Isolation
    memory_mb: int
    packages: Packages = Packages()


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
    """A child ended: its wait status, whether nothing of it is left, and the CPU time that it took."""

    status: int
    is_clean: bool
    cpu_seconds: float


class ConfinedInterpreter:
    """A warm interpreter of one role, isolated, and the messages to and from it.

    Deadlines are `time.monotonic()` seconds.
    """

    def __init__(self, role: Role, confined: Confinement) -> None:
        self._folder = None if confined.isolation.namespaces else ScratchFolder()
        self._files: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115 - closed by close()
        # Opened once more: flags and position that a program sets on its own are not the harness's.
        self._streams = [os.open(f"/dev/fd/{file.fileno()}", os.O_RDWR | os.O_APPEND) for file in self._files]
        self._marker = bytes(
            0x80 | byte for byte in secrets.token_bytes(MARKER_BYTES)
        )  # in no message: those are ASCII
        self._output_bytes = 0  # of one job: what it may write, into a file or as a message
        self._replies = bytearray()
        self._control = bytearray()
        self._runs_here = False  # the warm process runs the job itself
        self._here_since = 0.0  # its CPU seconds before that
        self._has_begun = False  # something of the job was seen
        self._child: int | None = None  # process id of what runs it, once it was looked for
        self._exit: Exit | None = None
        path = self._folder.path if self._folder else None
        try:
            self._process, self._ends = confinement.start(
                BOOT, confined.isolation, path, self._streams, confined.packages.readable
            )
        except BaseException:
            self._close_files()
            raise
        self._requests, self._answers, self._says = (end.fileno() for end in self._ends)
        try:
            self._boot(role, confined)
        except BaseException:
            self.close()
            raise
        self._warm = innermost(self._process.pid)
        self._scratch = path or confinement.scratch_of(self._warm)

    def _boot(self, role: Role, confined: Confinement) -> None:
        order = {
            "modules": {name: code.hex() for name, code in modules(role).items()},
            "streams": self._streams,
            "marker": self._marker.hex(),
            "packages": confined.packages.names,
            "places": dict(confined.packages.modules),
            "limits": confinement.limits(confined.memory_mb, bool(confined.packages.names)),
            "strict": confined.isolation.is_enough,
        }
        for end in self._ends:
            end.setblocking(False)
        deadline = time.monotonic() + _START_SECONDS
        try:
            self._write(_framed(pack(order)), deadline)
            while (line := self._next_line()) is None:
                self._wait(deadline)
                self._check_wall(deadline)
        except (Interrupted, Lost):
            line = b""
        if line != b"ready":
            raise UserError(
                f"evaluation: an isolated interpreter does not start ({self._last_words(line)}); "
                "`wmtp doctor` says what this machine lacks"
            )

    def _last_words(self, line: bytes) -> str:
        """The last line that a process which does not start has said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        self._read_last_words()
        said = (line + b"\n" + self._control).decode(errors="replace").split("\n")
        return next((words for words in reversed(said) if words.strip()), "it says nothing")

    def begin(self, job: dict[str, Any], deadline: float, stdin: str = "", here: bool = False) -> None:
        """Give the warm process a job, to be run by a fork, or `here` by itself. Raises Lost if there is none."""
        if not here:  # where nothing foreign reads or writes
            self._fill_streams(stdin)
        self._output_bytes = job["output_bytes"]
        self._runs_here = here
        self._has_begun, self._child, self._exit = self._runs_here, None, None
        if self._runs_here:
            self._child, self._here_since = self._warm, cpu_clock(self._warm)
        self._write(self._marker + (HERE if here else FORK) + _framed(pack(job)), deadline)

    def _fill_streams(self, stdin: str) -> None:
        """Empty the files, and undo what a program may have done to the descriptors that all programs share."""
        for file, descriptor in zip(self._files, self._streams, strict=True):
            if os.fstat(descriptor).st_size:
                os.ftruncate(file.fileno(), 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
        if stdin:
            os.pwrite(self._files[0].fileno(), stdin.encode(), 0)

    def send(self, payload: bytes, deadline: float) -> None:
        """A message to the running child."""
        self._write(_framed(payload), deadline)

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._requests, rest) :]
            except BlockingIOError:
                if not _poll([(self._requests, select.POLLOUT)], deadline - time.monotonic()):
                    raise Interrupted("timed_out", WALL_TIME) from None
            except ConnectionError:
                raise self._death() from None

    def receive(self, deadline: float, cpu_seconds: float) -> bytes | Exit:
        """The child's next message, or that it ended.

        Raises Interrupted at a limit, for a broken message, or if the child took the warm process with it; Lost
        where there was no child yet.
        """
        last_look = time.monotonic()
        while True:
            message = self._next_message()
            if message is not None:
                return message
            if self._read(self._answers, self._replies):
                self._has_begun = True
                self._check_wall(deadline)  # a program that dribbles keeps this loop from its tick
                continue
            if self._exit is not None:
                return self._exit
            if self._next_exit():
                continue  # what the child said before it ended is read first
            self._wait(min(deadline, last_look + _TICK_SECONDS))
            if time.monotonic() >= last_look + _TICK_SECONDS:
                self._check_wall(deadline)
                self._check_use(cpu_seconds)
                last_look = time.monotonic()

    def let_end(self) -> None:
        """Wait for the child's end, but no longer than most take: what it says until then is read at once."""
        _poll([(self._says, select.POLLIN)], _QUICK_SECONDS)

    def _wait(self, until: float) -> None:
        """Until either channel has something to read, at most to a time."""
        _poll([(channel, select.POLLIN) for channel in (self._answers, self._says)], until - time.monotonic())

    def _read(self, channel: int, into: bytearray) -> bool:
        """Append what is there; whether it was anything. Raises as `_death` at the end."""
        try:
            chunk = os.read(channel, 1 << 16)
        except BlockingIOError:
            return False
        except ConnectionError:  # it has died with something unread
            chunk = b""
        if not chunk:
            self._read_last_words()
            raise self._death()
        into += chunk
        return True

    def _read_last_words(self) -> None:
        try:
            while chunk := os.read(self._says, 1 << 16):
                self._control += chunk
        except (BlockingIOError, ConnectionError):
            return

    def _next_line(self) -> bytes | None:
        """The next line on the control channel, which only the warm process can write; None if it is not there yet."""
        if b"\n" not in self._control and not self._read(self._says, self._control):
            return None
        line, newline, rest = self._control.partition(b"\n")
        if not newline:
            return None
        self._control = rest
        return bytes(line)

    def _next_exit(self) -> bool:
        """Whether the warm process has said how its child ended, which is kept."""
        line = self._next_line()
        if line is not None:
            status, is_clean, seconds = line.split()
            self._exit = Exit(int(status), is_clean == b"1", float(seconds))
        return line is not None

    def _next_message(self) -> bytes | None:
        if len(self._replies) < _HEADER_BYTES:
            return None
        end = _HEADER_BYTES + int.from_bytes(self._replies[:_HEADER_BYTES], "big")
        if end > self._output_bytes + 4096:
            raise Interrupted("failed", OFF_SCRIPT)
        if len(self._replies) < end:
            return None
        message = bytes(self._replies[_HEADER_BYTES:end])
        del self._replies[:end]
        return message

    def _death(self) -> Exception:
        if self._has_begun:
            return Interrupted("failed", "the program brought its interpreter down")
        return Lost("the warm interpreter died")

    def _check_wall(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise Interrupted("timed_out", WALL_TIME)

    def _check_use(self, cpu_seconds: float) -> None:
        child = self._child = self._child or next(iter(children(self._warm)), None)
        if child is None:
            return
        self._has_begun = True
        if cpu_clock(child) - (self._here_since if self._runs_here else 0.0) > cpu_seconds:
            raise Interrupted("timed_out", CPU_TIME)
        if threads(child) > _THREADS:
            raise Interrupted("refused", f"started more than {_THREADS} threads")
        if folder_bytes(self._scratch, confinement.SCRATCH_MB << 20) > confinement.SCRATCH_MB << 20:
            raise Interrupted("refused", f"wrote more than {confinement.SCRATCH_MB} MiB of files")

    def output(self) -> str:
        """What the program wrote to its standard output."""
        return self._written(self._files[1].fileno(), self._output_bytes)

    def last_output(self, most: int) -> str:
        """The end of that, and of what it wrote to standard error, in bytes of each."""
        return "".join(self._written(file.fileno(), most) for file in self._files[1:])

    def _written(self, file: int, most: int) -> str:
        """At most `most` bytes from a file's end, but of no more than a program may write."""
        size = min(os.fstat(file).st_size, self._output_bytes)
        start = max(0, size - most)
        return os.pread(file, size - start, start).decode(errors="replace") if size else ""

    def clear(self) -> None:
        """Make ready for the next job once the child has ended: drop what nobody read."""
        self._replies.clear()

    def stop(self) -> bool:
        """Kill only the child; returns whether the warm process then said that nothing of it is left."""
        if self._runs_here:
            return False
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            self._kill_child()
            while self._exit is None:
                self._drain()
                self._next_exit()
                if self._exit is None:
                    self._wait(deadline)
                    self._check_wall(deadline)
            self._drain()
        except (Interrupted, Lost, OSError):
            return False
        return self._exit.is_clean

    def _kill_child(self) -> None:
        for child in children(self._warm):
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                descriptor = os.pidfd_open(child)
                try:
                    if child in children(self._warm):  # else the number may be another process' by now
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                finally:
                    os.close(descriptor)

    def _drain(self) -> None:
        while self._read(self._answers, self._replies):
            self._replies.clear()

    def kill(self) -> None:
        """Kill everything inside, from any thread; whoever waits for a message learns that the process died.

        The whole group, since not every system ends a child with its parent.
        """
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill everything inside, and remove what it wrote."""
        self.kill()
        self._process.wait()
        for end in self._ends:
            end.close()
        self._close_files()

    def _close_files(self) -> None:
        for file, descriptor in zip(self._files, self._streams, strict=True):
            file.close()
            os.close(descriptor)
        if self._folder is not None:
            self._folder.close()


def _framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(_HEADER_BYTES, "big") + payload


def _poll(events: list[tuple[int, int]], seconds: float) -> bool:
    poller = select.poll()
    for descriptor, event in events:
        poller.register(descriptor, event)
    return bool(poller.poll(max(0.0, seconds) * 1000))
