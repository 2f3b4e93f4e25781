"""What an interpreter gives up before it runs anything foreign: limits it cannot raise, all capabilities of root, and
every system call but those that a computing Python program needs.

The list is of what is allowed, so what a future kernel adds is forbidden. What is missing on purpose: sockets but for
a pair (asyncio makes one), signals to anybody, new programs and namespaces, device files, metadata of files, clocks,
shared memory, kernel keys, tracing, io_uring, and whatever else is not a computation, its threads or its files.
"""

import ctypes
import os
import resource
import struct
from typing import Any

# name, number on x86_64, number on aarch64. "-": that machine has none.
_ALLOWED = """
read 0 63 | write 1 64 | open 2 - | close 3 57 | stat 4 - | fstat 5 80 | lstat 6 - | poll 7 - | lseek 8 62
mmap 9 222 | mprotect 10 226 | munmap 11 215 | brk 12 214 | rt_sigaction 13 134 | rt_sigprocmask 14 135
rt_sigreturn 15 139 | pread64 17 67 | pwrite64 18 68 | readv 19 65 | writev 20 66 | access 21 - | pipe 22 -
select 23 - | sched_yield 24 124 | mremap 25 216 | msync 26 227 | madvise 28 233 | dup 32 23 | dup2 33 - | pause 34 -
nanosleep 35 101 | getitimer 36 102 | alarm 37 - | setitimer 38 103 | getpid 39 172 | sendfile 40 71 | sendto 44 206
recvfrom 45 207 | getsockname 51 204 | getsockopt 55 209 | clone 56 220 | exit 60 93 | wait4 61 260 | uname 63 160
flock 73 32 | fsync 74 82 | fdatasync 75 83 | truncate 76 45 | ftruncate 77 46 | getdents 78 - | getcwd 79 17
chdir 80 49 | fchdir 81 50 | rename 82 - | mkdir 83 - | rmdir 84 - | creat 85 - | link 86 - | unlink 87 -
symlink 88 - | readlink 89 - | umask 95 166 | gettimeofday 96 169 | getrlimit 97 163 | getrusage 98 165
sysinfo 99 179 | times 100 153 | getuid 102 174 | getgid 104 176 | geteuid 107 175 | getegid 108 177 | getppid 110 173
getpgrp 111 - | getgroups 115 158 | getpgid 121 155 | getsid 124 156 | rt_sigpending 127 136 | rt_sigtimedwait 128 137
rt_sigsuspend 130 133 | sigaltstack 131 132 | statfs 137 43 | fstatfs 138 44 | arch_prctl 158 - | gettid 186 178
time 201 - | futex 202 98 | sched_getaffinity 204 123 | getdents64 217 61 | set_tid_address 218 96
restart_syscall 219 128 | fadvise64 221 223 | clock_gettime 228 113 | clock_getres 229 114 | clock_nanosleep 230 115
exit_group 231 94 | epoll_wait 232 - | epoll_ctl 233 21 | openat 257 56 | mkdirat 258 34 | newfstatat 262 79
unlinkat 263 35 | renameat 264 38 | linkat 265 37 | symlinkat 266 36 | readlinkat 267 78 | faccessat 269 48
pselect6 270 72 | ppoll 271 73 | set_robust_list 273 99 | epoll_pwait 281 22 | eventfd2 290 19
epoll_create1 291 20 | dup3 292 24 | pipe2 293 59 | getcpu 309 168 | renameat2 316 276 | getrandom 318 278
membarrier 324 283 | copy_file_range 326 285 | statx 332 291 | rseq 334 293 | close_range 436 436 | faccessat2 439 439
"""

# Allowed with some arguments only: which argument (from 0), under which mask, and the values; all of several have to
# hold. Of `fcntl` no owner of signals and no lease; of `ioctl` what asks a file's kind; of `prctl` names, and what a
# child needs to lock itself up; of `fallocate` what makes a file larger, since what it reserves beyond a file's end
# counts towards no limit; of pairs of sockets those of a stream within this machine.
_RESTRICTED = """
fcntl 72 25 | 1 0xffffffff | 0 1 2 3 4 5 6 7 1030 1032
ioctl 16 29 | 1 0xffffffff | 0x5401 0x5413 0x541b 0x5421 0x5450 0x5451
prctl 157 167 | 0 0xffffffff | 1 15 16 22 0x53564d41
prlimit64 302 261 | 0 0xffffffff | 0
fallocate 285 47 | 1 0xffffffff | 0
socketpair 53 199 | 0 0xffffffff | 1 | 1 0xf | 1
"""
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH_*
_X32 = 0x40000000
_FIRST_NEW = 435  # clone3 and later: the C library tries those and takes ENOSYS for an answer
_CLONE_THREAD = 0x10000

_LOAD, _AND, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 38
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_FILTER_MODE, _SIGKILL = ctypes.c_ulong(2), 9
_CAPABILITY_VERSION = 0x20080522

Instruction = tuple[int, int, int, int]
"""One instruction of classic BPF: code, jump if true, jump if false, operand."""


def limit_resources(limits: dict[str, int]) -> None:
    """Set `resource`'s limits by name, softly and for good. One that this system lacks is left out."""
    for name, value in limits.items():
        number = getattr(resource, name, None)
        if number is not None:
            resource.setrlimit(number, (value, value))


def system_call_filter(machine: str) -> list[Instruction]:
    """The allowed system calls of a machine as a program for seccomp. Raises KeyError for an unknown machine."""
    column, audit = MACHINES[machine]
    program = [(_LOAD, 0, 0, _MACHINE_AT), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER_AT)]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for entry in _ALLOWED.replace("\n", "|").split("|"):
        if entry.strip() and (number := entry.split()[1 + column]) != "-":
            program += [(_EQUAL, 0, 1, int(number)), (_RETURN, 0, 0, _ALLOW)]
    for line in _RESTRICTED.strip().splitlines():
        call, *conditions = line.split("|")
        program += _restricted(int(call.split()[1 + column]), conditions)
    return [*program, (_AT_LEAST, 0, 1, _FIRST_NEW), (_RETURN, 0, 0, _UNKNOWN), (_RETURN, 0, 0, _REFUSE)]


def _restricted(call: int, conditions: list[str]) -> list[Instruction]:
    """Allow a call where every pair of (argument and mask, values) holds."""
    body: list[Instruction] = []
    for argument, values in zip(conditions[::2], conditions[1::2], strict=True):
        position, mask = argument.split()
        wanted = [int(value, 0) for value in values.split()]
        body += [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * int(position)), (_AND, 0, 0, int(mask, 0))]
        body += [(_EQUAL, len(wanted) - number, 0, value) for number, value in enumerate(wanted)]
        body += [(_RETURN, 0, 0, _REFUSE)]
    return [(_EQUAL, 0, len(body) + 1, call), *body, (_RETURN, 0, 0, _ALLOW)]


def program_filter(machine: str) -> list[Instruction]:
    """What a program may not on top of that: `clone` makes threads only, and death with the parent stays set."""
    clone, prctl = (56, 157) if machine == "x86_64" else (220, 167)
    return [
        (_LOAD, 0, 0, _NUMBER_AT),
        (_EQUAL, 0, 3, clone),
        (_LOAD, 0, 0, _ARGUMENTS_AT),
        (_ANY_BIT, 5, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _REFUSE),
        (_EQUAL, 0, 3, prctl),
        (_LOAD, 0, 0, _ARGUMENTS_AT),
        (_EQUAL, 2, 0, _PR_SET_PDEATHSIG),
        (_EQUAL, 1, 0, _PR_SET_SECCOMP),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]


class Lock:
    """The calls that give rights up, prepared, so that a forked child pays little for them; Linux only."""

    def __init__(self, machine: str) -> None:
        self._libc = ctypes.PyDLL(None, use_errno=True)  # which keeps Python's lock: these calls do not wait
        self._interpreter = _prepared(system_call_filter(machine))
        self._program = _prepared(program_filter(machine))
        self._death = ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(_SIGKILL)
        self._filter = ctypes.c_int(_PR_SET_SECCOMP), _FILTER_MODE, ctypes.byref(self._program)

    def _prctl(self, option: ctypes.c_int, *arguments: Any) -> None:
        if self._libc.prctl(option, *arguments):
            raise OSError(ctypes.get_errno(), f"prctl {option.value}")

    def give_up_rights(self) -> None:
        """Root keeps its number and nothing else, and only the allowed system calls are left, here and in children."""
        self._prctl(ctypes.c_int(_PR_SET_NO_NEW_PRIVS), *map(ctypes.c_ulong, (1, 0, 0, 0)))
        for capability in range(64):
            if self._libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability)):
                break  # not root, or past the last
        header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
        if self._libc.capset(header, none):
            raise OSError(ctypes.get_errno(), "capset")
        self._prctl(ctypes.c_int(_PR_SET_SECCOMP), _FILTER_MODE, ctypes.byref(self._interpreter))

    def die_with_parent(self) -> None:
        """A harness that is killed takes this process with it; not inherited, so each child says it, too."""
        self._prctl(*self._death)

    def become_program(self) -> None:
        """Before a child runs what is foreign: no processes but this one, and no way to outlive its parent."""
        self.die_with_parent()
        self._prctl(*self._filter)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))
    code: Any


def _prepared(program: list[Instruction]) -> _Program:
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    code = ctypes.create_string_buffer(packed, len(packed))
    prepared = _Program(len(program), ctypes.cast(code, ctypes.c_void_p))
    prepared.code = code  # keeps the memory
    return prepared


def lock_down(limits: dict[str, int], strict: bool) -> Lock | None:
    """Give up all that is not needed, for good. None if this system lacks the calls and `strict` is false.

    Raises OSError or KeyError if `strict` is true and the kernel refuses.
    """
    try:
        limit_resources(limits)
        lock = Lock(os.uname().machine)
        lock.die_with_parent()
        lock.give_up_rights()
    except (OSError, ValueError, KeyError, AttributeError):
        if strict:
            raise
        return None
    return lock
