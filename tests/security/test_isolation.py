"""Programs that reach for what is not theirs: they are refused or stopped, and the worker goes on."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weighted_mtp.data.schema import TestCase
from weighted_mtp.sandbox import run
from weighted_mtp.sandbox.attacks import LIMITS, PATIENT
from weighted_mtp.sandbox.scratch import ScratchFolder, remove_abandoned

CALL = TestCase("call", "()", "'never'")

REFUSED = {
    "a TCP connection": "import socket\ndef f(): socket.create_connection(('127.0.0.1', 22), 1)",
    "/etc/passwd": "def f(): return open('/etc/passwd').read()",
    "a folder": "import os\ndef f(): return os.listdir('/proc')",
    "a file in /tmp": "def f(): open('/tmp/wmtp-evil', 'w')",
    "a write to the standard library": "import os\ndef f(): open(os.__file__, 'a')",
    "a signal to its parent": "import os\ndef f(): os.kill(os.getppid(), 9)",
    "another process": "import os\ndef f(): os.fork()",
    "a shell": "import subprocess\ndef f(): subprocess.run(['/bin/sh', '-c', 'true'])",
    "a file of 10 MB": "def f():\n    with open('x', 'wb') as file: file.write(bytes(10_000_000))",
    "10 MB of output": "def f():\n    while True: print('x' * 1000)",
    "a hundred open files": "def f(): return len([open(str(i), 'w') for i in range(100)])",
    "memory outside the limit": "import os\ndef f(): os.memfd_create('x')",
    "20 MB in files": (
        "import time\ndef f():\n    for i in range(20): open(str(i), 'wb').write(bytes(10**6))\n    time.sleep(1)"
    ),
    "five thousand files": (
        "import time\ndef f():\n    for i in range(5000): open(str(i), 'wb').close()\n    time.sleep(1)"
    ),
    "a thousand threads": (
        "import threading, time\ndef f():\n    threading.stack_size(32768)\n"
        "    for _ in range(1000): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "    time.sleep(1)"
    ),
}

ALLOWED = {
    "asyncio": "import asyncio\nasync def g(): return await asyncio.sleep(0.01, 7)\ndef f(): return asyncio.run(g())",
    "threads": (
        "import threading\ndef f():\n    kept = []\n    thread = threading.Thread(target=kept.append, args=(7,))\n"
        "    thread.start(); thread.join()\n    return kept[0]"
    ),
    "a larger stack": (
        "import resource, sys, threading\ndef f():\n    resource.setrlimit(resource.RLIMIT_STACK, (1 << 24, 1 << 24))\n"
        "    threading.stack_size(1 << 26)\n    sys.setrecursionlimit(10 ** 6)\n    return 7"
    ),
    "temporary files": "import tempfile\ndef f():\n    with tempfile.TemporaryFile() as t: return t.write(b'x' * 7)",
    "its own files": "def f():\n    open('a', 'w').write('7')\n    return int(open('a').read())",
    "an alarm": "import signal\ndef f():\n    signal.alarm(60)\n    return signal.alarm(0) // 60 * 7 or 7",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_program_must_not_reach_is_refused(worker, name):
    outcome = worker.run(REFUSED[name], CALL)
    assert outcome.status == "refused", outcome


@pytest.mark.parametrize("name", ALLOWED)
def test_what_honest_programs_use_is_there(worker, name):
    outcome = worker.run(ALLOWED[name], TestCase("call", "()", "7"))
    assert outcome.status == "passed", outcome


def test_the_environment_is_empty(worker, monkeypatch):
    monkeypatch.setenv("WMTP_SECRET", "s3cret")
    test = TestCase("call", "()", "['LC_CTYPE', 'MALLOC_ARENA_MAX', 'PYTHONHASHSEED', 'PYTHONUTF8']")
    outcome = worker.run("import os\ndef f(): return sorted({*os.environ, 'LC_CTYPE'})", test)
    assert outcome.status == "passed", outcome


def test_no_descriptor_is_inherited(worker, tmp_path):
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        program = """
import os, stat
def f():
    kinds = []
    for number in range(1024):
        try: kinds.append(stat.S_IFMT(os.fstat(number).st_mode))
        except OSError: pass
    return kinds
"""
        expected = repr([stat.S_IFREG] * 3 + [stat.S_IFSOCK] * 2 + [stat.S_IFCHR] * 2)
        assert run(program, [TestCase("call", "()", expected)], entry_point="f").status == "passed"


def test_installed_packages_cannot_be_imported(worker):
    outcome = worker.run("import numpy\ndef f(): return 1", CALL)
    assert outcome.status == "failed"
    assert "ModuleNotFoundError" in outcome.detail


STOPPED = {
    "an infinite loop": ("def f():\n    while True: pass", "timed_out"),
    "an infinite loop that shields itself": (
        "import signal\nfor n in (1, 2, 15, 24): signal.signal(n, signal.SIG_IGN)\ndef f():\n    while True: pass",
        "timed_out",
    ),
    "an infinite loop in another session": (
        "import os\ndef f():\n    try: os.setsid()\n    except OSError: pass\n    while True: pass",
        "timed_out",
    ),
    "an infinite loop while loading": ("while True: pass", "timed_out"),
    "one operation without end": ("def f(): return 9 ** 9 ** 9 ** 9", "timed_out"),
    "threads without end": (
        "import threading\ndef g():\n    while True: pass\n"
        "def f():\n    while True: threading.Thread(target=g).start()",
        None,
    ),
    "memory": ("def f(): return len(bytearray(10 ** 9))", "out_of_memory"),
    "memory in small pieces": ("def f():\n    x = []\n    while True: x.append(bytearray(10 ** 6))", "out_of_memory"),
    "recursion without end": ("def f(): return f()", "failed"),
    "a crash": ("import ctypes\ndef f(): ctypes.string_at(0)", "failed"),
    "an answer of 10 MB": ("def f(): return 'x' * 10 ** 7", "failed"),
    "a value inside itself": ("def f():\n    x = []\n    x.append(x)\n    return x", "cannot_be_compared"),
    "an endless answer": ("def f():\n    while True: yield 1", "failed"),
}


@pytest.mark.parametrize("name", STOPPED)
def test_what_does_not_end_is_stopped(worker, name):
    program, status = STOPPED[name]
    by_time = status in ("timed_out", None)  # whatever else stops a program may take its time on a slow machine
    outcome = worker.run(program, CALL, limits=LIMITS if by_time else PATIENT)
    assert outcome.status == status if status else outcome.status != "passed", outcome


def test_a_program_finds_nothing_of_the_one_before(worker):
    worker.run("import os, sys\nos.environ['LEFT'] = '1'\nsys.modules['left'] = os\ndef f(): return 1", CALL)
    later = worker.run("import os, sys\ndef f(): return ['LEFT' in os.environ, 'left' in sys.modules]",
                       TestCase("call", "()", "[False, False]"))  # fmt: skip
    assert later.status == "passed"


@pytest.mark.parametrize("isolation", ["all", "landlock"], indirect=True)
def test_a_killed_harness_takes_its_programs_with_it_and_its_folders_go_at_the_next_start(tmp_path, isolation):
    script = f"""
import tempfile
tempfile.tempdir = {str(tmp_path)!r}
from weighted_mtp.sandbox.confinement import Isolation
from weighted_mtp.sandbox import Job, Limits, SandboxPool, TestCase
limits = Limits(cpu_seconds=600, wall_seconds=600)
with SandboxPool(1, isolation=Isolation(*{tuple(isolation)})) as pool:
    pool.run_many([Job("while True: pass", "f", [TestCase("call", "()", "1")], limits)])
"""
    harness = subprocess.Popen([sys.executable, "-c", script])
    _wait_until(lambda: any(_cpu_seconds(pid) > 1.0 for pid in _sandboxed(harness.pid)))
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    _wait_until(lambda: not _sandboxed(harness.pid))
    left = list(tmp_path.iterdir())
    assert bool(left) is not isolation.namespaces
    for folder in left:
        os.utime(folder, (0, 0))
    remove_abandoned(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_and_a_young_one_are_not_taken_for_abandoned(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    used = ScratchFolder()
    os.utime(used.path, (0, 0))
    (tmp_path / "wmtp-scratch-young").mkdir()
    remove_abandoned.cache_clear()
    remove_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    used.close()
    assert [path.name for path in tmp_path.iterdir()] == ["wmtp-scratch-young"]


def _sandboxed(harness: int) -> list[int]:
    """The processes that a harness has started for programs."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"sandbox of {harness}".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _cpu_seconds(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
