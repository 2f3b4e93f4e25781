"""What the sandbox forbids is decided here, and only here: Landlock and seccomp through `sandlock`.

Reads reach the interpreter, its standard library and the system's shared libraries; writes reach one scratch folder
and two output files. There is no network, no /proc, no signal to another process, no inherited descriptor; the
environment is empty and the hash seed fixed.
"""

import os
import resource
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from weighted_mtp.errors import UserError

if TYPE_CHECKING:
    from sandlock.sandbox import Process

_OPEN_FILES = 64
_INTERPRETER_MB = 128  # address space of a warm interpreter itself
_CPU_SECONDS = 3600  # should nobody be left who watches the program's own, much shorter, limit

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


class Folder(NamedTuple):
    """The files of one confined interpreter, outside of which it writes nothing."""

    root: Path

    @property
    def scratch(self) -> Path:
        """Where a program may make files."""
        return self.root / "scratch"

    @property
    def streams(self) -> tuple[Path, Path, Path]:
        """What a program has as standard input, output and error."""
        return self.root / "in", self.root / "out", self.root / "err"


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


def start(source: str, folder: Folder, memory_mb: int, processes: int, file_bytes: int) -> "Process":
    """A confined Python process that runs `source`, with pipes on its three standard streams.

    memory_mb   address space of each process beyond the interpreter's own, MiB
    processes   that may exist at once beside the first one
    file_bytes  largest file

    Raises UserError where sandlock refuses.
    """
    from sandlock import Sandbox
    from sandlock.sandbox import StdioMode

    interpreter = str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]
    sandbox = Sandbox(
        fs_readable=[*_readable(interpreter), str(folder.streams[0])],
        fs_writable=["/dev/null", str(folder.scratch), *map(str, folder.streams[1:])],
        cwd=str(folder.scratch),
        max_processes=1 + processes,
        extra_deny_syscalls=_DENIED_SYSCALLS.split(),
        clean_env=True,
        env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
        no_coredump=True,
    )
    try:
        process = sandbox.popen([interpreter, "-s", "-S", "-P", "-B", "-c", source], *[StdioMode.PIPED] * 3)
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"evaluation: sandlock cannot confine an interpreter on this machine ({error})") from error
    # From outside, because inside the system call that could raise them again is denied.
    for limit, value in (
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_AS, (memory_mb + _INTERPRETER_MB) << 20),
    ):
        resource.prlimit(process.pid, limit, (value, value))
    return process


def _readable(interpreter: str) -> list[str]:
    """The interpreter, its standard library, and the system's loader and shared libraries."""
    bases = {"installed_base": sys.base_prefix, "base": sys.base_prefix, "platbase": sys.base_prefix}
    wanted: list[str | Path] = [
        interpreter,
        sysconfig.get_path("stdlib", vars=bases),
        sysconfig.get_path("platstdlib", vars=bases),
        *Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib").glob("libpython*.so*"),
        *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"),
        *("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero"),
    ]
    return sorted({str(path) for path in wanted if Path(path).exists()})
