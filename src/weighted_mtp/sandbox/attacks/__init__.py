"""Hostile programs, and what is to hold against each: it does not pass, harms nothing, and leaves nothing behind.

A program passes only if it did what it must not: its right answer, 40961, is what it steals, or what it returns where
it got through. The programs are text beside this file, one file a class; `@NAME@` in them stands for the bait.
"""

import contextlib
import os
import re
import resource
import secrets
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

from weighted_mtp.data.schema import TestCase
from weighted_mtp.sandbox import Job, Limits, Outcome, SandboxPool
from weighted_mtp.sandbox.confinement import Isolation, offered
from weighted_mtp.sandbox.scratch import PREFIX

CLASSES = ("escape", "theft", "forgery", "exhaustion", "interference", "persistence")
LIMITS = Limits(cpu_seconds=0.5, wall_seconds=3.0, memory_mb=256, output_bytes=1 << 20)

_ANSWER = 40961
_CALL = TestCase("call", "(1,)", str(_ANSWER))
_CODE = f"assert got == {_ANSWER} and abs(got - {_ANSWER}) < 1e-6"
_ASSERTIONS = TestCase("code", "", f"got = f(1)\n{_CODE}")
_CONVERSATION = TestCase("code", "", f"for argument in [1]:\n    got = f(argument)\n{_CODE}")
_CONTAINED = TestCase(
    "code",
    "",
    f"got = f(1)\nassert got in ({_ANSWER},) and [got] == [{_ANSWER}] and not got != {_ANSWER}\n"
    f"assert {{got: 1}} == {{{_ANSWER}: 1}} and got <= {_ANSWER} <= got",
)
_SCRIPT = TestCase("stdio", "1\n", f"{_ANSWER}\n")
_STUB = "def f(x):\n    'the stub'\n"

PATIENT = replace(LIMITS, cpu_seconds=5.0, wall_seconds=60.0)

REMARK = (
    "# The next program that finds all as it was and leaves nothing of itself\n"  # what an attack looks for in memory
)

# What the next program must find: only its own file, and everything as it always is.
_FRESH = f"""
{REMARK * 100}
import os, random, sys
def f(x):
    print("next")
    own = 'print("next")' in open(__file__).read()
    return [os.listdir(), own, os.environ.get("LEFT"), "left" in sys.modules, round(random.random(), 6), x]
"""
_HARMLESS = (
    Job(_FRESH, "f", [TestCase("call", "(7,)", "[['program.py'], True, None, False, 0.844422, 7]")], PATIENT),
    Job("print(int(input()) + 1)", "", [TestCase("stdio", "1\n", "2\n")], PATIENT),
)


@dataclass(frozen=True)
class Attack:
    """A hostile program; `jobs` are the ways in which it is tried."""

    kind: str
    name: str
    program: str

    def jobs(self, bait: "Bait") -> list[Job]:
        """One job, or four: a call, and test code whose calls are known beforehand or are not, or which compares what
        a value is in."""
        program = bait.inserted(self.program)
        if self.name.endswith("[script]"):
            return [Job(program, "", [_SCRIPT], LIMITS)]
        tests = (_CALL, _ASSERTIONS, _CONVERSATION, _CONTAINED) if self.kind == "forgery" else (_CALL,)
        return [Job(program, "f", [test], LIMITS, _STUB) for test in tests]


@dataclass(frozen=True)
class Finding:
    """What became of an attack, and what of it succeeded: nothing, if all is well."""

    attack: Attack
    outcomes: list[Outcome] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def attacks() -> list[Attack]:
    """All of them, class by class."""
    found = []
    for kind in CLASSES:
        text = (resources.files(__name__) / f"{kind}.txt").read_text("utf-8")
        for part in re.split(r"^=== ", text, flags=re.MULTILINE)[1:]:
            name, _, program = part.partition("\n")
            found.append(Attack(kind, name, program))
    return found


class Bait:
    """What attacks are after: a secret in a file and in the environment, sockets that listen, this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._secret = folder / "secret"
        self._secret.write_text(str(_ANSWER))
        self._abstract = f"wmtp-{secrets.token_hex(8)}"
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._tcp, _listening(str(folder / "socket"))]
        if sys.platform == "linux":
            self._sockets.append(_listening(f"\0{self._abstract}"))
        for server in self._sockets:
            server.setblocking(False)
        os.environ["WMTP_SECRET"] = str(_ANSWER)
        self._before = self._state()

    def close(self) -> None:
        """Take the bait away."""
        del os.environ["WMTP_SECRET"]
        for server in self._sockets:
            server.close()

    def inserted(self, program: str) -> str:
        """A program with the bait's names in place."""
        names = {
            "FOLDER": str(self._folder),
            "PORT": str(self._tcp.getsockname()[1]),
            "ABSTRACT": self._abstract,
            "PID": str(os.getpid()),
            "CHECKSUM": str(zlib.crc32(REMARK[23:40].encode())),
            "PYTHON": str(Path(sys._base_executable).resolve()),  # type: ignore[attr-defined]
        }
        return re.sub(r"@([A-Z]+)@", lambda match: names[match.group(1)], program)

    def harm(self) -> list[str]:
        """What is no longer as it was."""
        now = self._state()
        changed = [f"changed the {what}" for what, value in self._before.items() if now[what] != value]
        for server in self._sockets:
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()
                changed.append("reached a socket")
        return changed

    def _state(self) -> dict[str, object]:
        status = self._secret.stat()
        state: dict[str, object] = {
            "secret": (self._secret.read_text(), status.st_mode, status.st_uid, status.st_mtime),
            "secret's folder": sorted(path.name for path in self._folder.iterdir()),
            "harness's limits": resource.getrlimit(resource.RLIMIT_CPU),
            "harness's priority": os.getpriority(os.PRIO_PROCESS, 0),
            "system's temporary files": sorted(Path(tempfile.gettempdir()).glob("wmtp-evil*")),
        }
        if sys.platform == "linux":
            state["harness's cores"] = sorted(os.sched_getaffinity(0))
            state["shared memory"] = sorted(path.name for path in Path("/dev/shm").iterdir() if "wmtp" in path.name)
            state["System V memory"] = len(Path("/proc/sysvipc/shm").read_text().splitlines())
        return state


def _listening(address: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    return server


def run_attacks(chosen: list[Attack], isolation: Isolation | None = None) -> Iterator[Finding]:
    """Try attacks one after the other on one worker, which must serve harmless programs after each.

    isolation  what to use of what this machine offers; all of it if not given

    A last finding, of no attack, is about what is left at the end. Raises UserError if nothing can be started.
    """
    with tempfile.TemporaryDirectory(prefix="wmtp-bait-") as name, contextlib.closing(Bait(Path(name))) as bait:
        before = _left_behind()
        with SandboxPool(1, isolation=isolation or offered()) as pool:
            for attack in chosen:
                yield _tried(attack, pool, bait)
        yield Finding(Attack("persistence", "what is left at the end", ""), [], _left_behind_since(before))


def _tried(attack: Attack, pool: SandboxPool, bait: Bait) -> Finding:
    outcomes, wrong = [], []
    for job in attack.jobs(bait):
        outcome, *after = pool.run_many([job, *_HARMLESS])
        outcomes.append(outcome)
        if outcome.status == "passed":
            wrong.append("passed")
        wrong += [f"the next program: {o.status}: {o.detail}" for o in after if o.status != "passed"]
        wrong += bait.harm()
    return Finding(attack, outcomes, wrong)


def _left_behind() -> set[str]:
    """Scratch folders and processes that this process has made for programs, as they are now."""
    folders = {str(path) for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getpid()}-*")}
    return folders | {f"process {pid}" for pid in _sandboxed()}


def _sandboxed() -> Iterator[int]:
    """Processes that this one has started for programs, wherever they have gone: their command line says so."""
    mark = f"sandbox of {os.getpid()}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "cmdline").read_bytes():
                yield int(entry.name)


def _left_behind_since(before: set[str]) -> list[str]:
    """What is there that was not, once killed processes have had time to go."""
    deadline = time.monotonic() + 5.0
    while (left := _left_behind() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [f"left {what}" for what in sorted(left)]
