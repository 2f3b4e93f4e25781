"""A confined Python interpreter and the pipes to it: what the sandbox forbids is decided here, and only here.

Landlock and seccomp through `sandlock`: reads reach the interpreter, its standard library and the system's shared
libraries; writes reach one scratch folder and two output files; there is no network, no socket pair, no /proc, no
signal to another process, no inherited descriptor, an empty environment and a fixed hash seed.
"""

import os
import resource
import secrets
import select
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.guest.codec import pack
from weighted_mtp.evaluation.guest.server import MARKER_BYTES

Role = Literal["player", "judge"]
Interruption = Literal["failed", "timed_out", "refused"]

SCRATCH_MB = 16  # all of a program's files together
_OPEN_FILES = 64
_TICK_SECONDS = 0.05  # how often a running program's CPU time and scratch folder are looked at

# What Landlock does not govern and sandlock leaves open: changing metadata or limits of things outside, waking or
# re-prioritising other processes, and memory that no limit counts.
_DENIED_SYSCALLS = """
    chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat
    setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr
    prlimit64 setrlimit sched_setaffinity sched_setscheduler sched_setparam sched_setattr setpriority ioprio_set
    kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal pidfd_getfd
    socketpair listen memfd_create mq_open migrate_pages move_pages process_madvise kcmp
    inotify_init inotify_init1 fanotify_init
"""

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
    """The harness must kill what runs: `status` and `detail` as in an Outcome."""

    def __init__(self, status: Interruption, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class Exit:
    """A child ended: its wait status."""

    status: int


def check_available() -> None:
    """Raise UserError naming what this machine lacks, unless it can confine programs."""
    if sys.platform != "linux":
        raise UserError(
            f"evaluation: programs are executed under Landlock and seccomp, which {sys.platform} lacks; "
            "run on Linux 6.12+"
        )
    try:
        from sandlock import landlock_abi_version, min_landlock_abi
    except (ImportError, OSError) as error:
        raise UserError(f"evaluation: the package sandlock does not load ({error}); run `uv sync`") from error
    found, needed = landlock_abi_version(), min_landlock_abi()
    if found < needed:
        has = f"Landlock ABI {found}" if found > 0 else "no Landlock"
        raise UserError(
            f"evaluation: this kernel ({os.uname().release}) has {has} and the sandbox needs ABI {needed}; "
            "use Linux 6.12+ with landlock among the `lsm=` boot parameters"
        )


def _readable() -> list[str]:
    """The interpreter, its standard library, and the system's loader and shared libraries."""
    interpreter = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    wanted = [
        interpreter,
        Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix})),
        Path(sysconfig.get_path("platstdlib", vars={"platbase": sys.base_prefix})),
        *Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib").glob("libpython*.so*"),
        *map(Path, ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")),
        *map(Path, ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")),
    ]
    return sorted({str(path) for path in wanted if path.exists()})


class ConfinedInterpreter:
    """A warm interpreter of one role in its own sandbox with its own folder, and the messages to and from it.

    memory_mb: address space of a program beyond the warm interpreter's own, MiB
    processes: processes a program may be at once, itself included
    file_bytes: largest file or output a program may write
    """

    def __init__(self, role: Role, memory_mb: int, processes: int, file_bytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wmtp-sandbox-"))
        self._scratch = self.folder / "scratch"
        self._scratch.mkdir()
        self._files = [os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o600) for name in ("in", "out", "err")]
        self._marker = secrets.token_bytes(MARKER_BYTES)
        self._file_bytes = file_bytes
        self._child = 0
        self._replies = bytearray()
        self._control = bytearray()
        try:
            self._process = self._start(role, processes)
            self._limit(memory_mb)
            self._boot(role)
        except BaseException:
            self.close()
            raise

    def _start(self, role: Role, processes: int) -> Any:
        from sandlock import Sandbox
        from sandlock.sandbox import StdioMode

        sandbox = Sandbox(
            fs_readable=[*_readable(), str(self.folder / "in")],
            fs_writable=["/dev/null", *(str(self.folder / name) for name in ("out", "err"))]
            + ([str(self._scratch)] if role == "player" else []),
            cwd=str(self._scratch),
            max_processes=1 + processes,
            extra_deny_syscalls=_DENIED_SYSCALLS.split(),
            clean_env=True,
            env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
            no_coredump=True,
        )
        command = [str(Path(sys._base_executable).resolve()), "-s", "-S", "-P", "-B", "-c", _BOOT]  # type: ignore[attr-defined]
        try:
            return sandbox.popen(command, StdioMode.PIPED, StdioMode.PIPED, StdioMode.PIPED)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"evaluation: sandlock cannot confine an interpreter on this machine ({error})") from error

    def _limit(self, memory_mb: int) -> None:
        """Kernel limits, set from outside: inside, the system call that could raise them is denied."""
        pid = self._process.pid
        for kind, value in (
            (resource.RLIMIT_FSIZE, self._file_bytes),
            (resource.RLIMIT_NOFILE, _OPEN_FILES),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_AS, (memory_mb << 20) + (128 << 20)),
        ):
            resource.prlimit(pid, kind, (value, value))

    def _boot(self, role: Role) -> None:
        sources = resources.files("weighted_mtp.evaluation.guest")
        order = {
            "modules": {name: (sources / f"{name}.py").read_text("utf-8") for name in ("codec", "server", role)},
            "files": [str(self.folder / name) for name in ("in", "out", "err")],
            "marker": self._marker.hex(),
        }
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            os.set_blocking(stream.fileno(), False)
        deadline = time.monotonic() + 60
        self._write(_framed(pack(order)), deadline)
        line = self._next_line(deadline)
        if line != b"ready":
            raise UserError(f"evaluation: the confined interpreter does not start: {line.decode(errors='replace')}")

    def begin(self, job: dict[str, Any], deadline: float, stdin: str = "") -> None:
        """Give the warm process a job. Deadlines are `time.monotonic()` seconds."""
        self._fill_files(stdin)
        self._write(self._marker + _framed(pack(job)), deadline)
        self._child = 0 if job.get("here") else int(self._next_line(deadline))

    def _fill_files(self, stdin: str) -> None:
        for descriptor in self._files:
            if os.fstat(descriptor).st_size:
                os.ftruncate(descriptor, 0)
        if stdin:
            os.pwrite(self._files[0], stdin.encode(), 0)

    def send(self, payload: bytes, deadline: float) -> None:
        """A message to the running child."""
        self._write(_framed(payload), deadline)

    def _write(self, data: bytes, deadline: float) -> None:
        descriptor, rest = self._process.stdin.fileno(), memoryview(data)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                self._wait_for(descriptor, select.POLLOUT, deadline)
            except BrokenPipeError:
                raise Interrupted("failed", "the program brought its interpreter down") from None

    @staticmethod
    def _wait_for(descriptor: int, event: int, deadline: float) -> None:
        poller = select.poll()
        poller.register(descriptor, event)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise Interrupted("timed_out", "wall time")

    def _next_line(self, deadline: float) -> bytes:
        """The next line on the control pipe, which only the warm process can write."""
        descriptor = self._process.stderr.fileno()
        while b"\n" not in self._control:
            self._wait_for(descriptor, select.POLLIN, deadline)
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise Interrupted("failed", self._control.decode(errors="replace")[-500:] or "the interpreter died")
            self._control += chunk
        line, _, rest = bytes(self._control).partition(b"\n")
        self._control = bytearray(rest)
        return line

    def receive(self, deadline: float, cpu_seconds: float) -> bytes | Exit:
        """The child's next message, or that it ended. Raises Interrupted at a limit or a broken pipe or message."""
        replies, control = self._process.stdout.fileno(), self._process.stderr.fileno()
        poller = select.poll()
        poller.register(replies, select.POLLIN)
        poller.register(control, select.POLLIN)
        while True:
            message = self._next_message()
            if message is not None:
                return message
            ready = [descriptor for descriptor, _ in poller.poll(_TICK_SECONDS * 1000)]
            if replies in ready and self._read_replies(replies):
                continue
            if control in ready:
                return Exit(int(self._next_line(deadline)))
            self._check_limits(deadline, cpu_seconds)

    def _read_replies(self, descriptor: int) -> bool:
        chunk = os.read(descriptor, 1 << 18)
        self._replies += chunk
        return bool(chunk)

    def _next_message(self) -> bytes | None:
        if len(self._replies) < 4:
            return None
        size = int.from_bytes(self._replies[:4], "big")
        if size > self._file_bytes + 4096:
            raise Interrupted("failed", "the program wrote on the sandbox's own pipe")
        if len(self._replies) < 4 + size:
            return None
        message = bytes(self._replies[4 : 4 + size])
        del self._replies[: 4 + size]
        return message

    def _check_limits(self, deadline: float, cpu_seconds: float) -> None:
        if time.monotonic() > deadline:
            raise Interrupted("timed_out", "wall time")
        if self._child and _cpu_clock(self._child) > cpu_seconds:
            raise Interrupted("timed_out", f"{cpu_seconds:g} s of CPU time")
        if _folder_bytes(self._scratch) > SCRATCH_MB << 20:
            raise Interrupted("refused", f"wrote more than {SCRATCH_MB} MiB of files")

    def output(self) -> tuple[str, str]:
        """What the program wrote: (standard output, standard error)."""
        out, err = (
            os.pread(descriptor, self._file_bytes, 0).decode(errors="replace") for descriptor in self._files[1:]
        )
        return out, err

    def clear(self) -> None:
        """Make ready for the next job: drop unread messages, and empty the scratch folder."""
        self._replies.clear()
        for entry in os.scandir(self._scratch):
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(Path(entry.path))
            else:
                Path(entry.path).unlink()

    def close(self) -> None:
        """Kill everything inside, and remove the folder."""
        process = getattr(self, "_process", None)
        if process is not None:
            process.__exit__(None, None, None)
        for descriptor in self._files:
            os.close(descriptor)
        self._files = []
        _remove_tree(self.folder)


@contextmanager
def interpreter(role: Role, memory_mb: int, processes: int, file_bytes: int) -> Iterator[ConfinedInterpreter]:
    """A ConfinedInterpreter that is closed at the end."""
    confined = ConfinedInterpreter(role, memory_mb, processes, file_bytes)
    try:
        yield confined
    finally:
        confined.close()


def _framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def _cpu_clock(pid: int) -> float:
    """CPU seconds of a process by the kernel's clock of it (clock_getcpuclockid(3)); 0 when it has just ended."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _folder_bytes(folder: Path) -> int:
    """Bytes under a folder that a program may be writing into; every entry counts at least one block."""
    total = 0
    pending = [str(folder)]
    while pending:
        try:
            for entry in os.scandir(pending.pop()):
                total += 4096 + entry.stat(follow_symlinks=False).st_size
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
        except OSError:  # the program removed it in this instant, or took its own permission away
            continue
    return total


def _remove_tree(folder: Path) -> None:
    """Remove a folder though a program may have taken the permissions of what it made inside."""
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o700)
    shutil.rmtree(folder)
