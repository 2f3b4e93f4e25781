"""Programs that reach for what is not theirs: they are refused or stopped, and the worker goes on."""

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weighted_mtp.data.schema import TestCase
from weighted_mtp.evaluation.sandbox import Job, Limits, SandboxPool, run

CALL = TestCase("call", "()", "'never'")

REFUSED = {
    "a TCP connection": "import socket\ndef f(): socket.create_connection(('127.0.0.1', 22), 1)",
    "an IPv6 connection": "import socket\ndef f(): socket.socket(socket.AF_INET6).connect(('::1', 22))",
    "a datagram": (
        "import socket\ndef f(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))"
    ),
    "a server": "import socket\ndef f(): socket.socket().bind(('127.0.0.1', 0))",
    "/etc/passwd": "def f(): return open('/etc/passwd').read()",
    "the root folder": "import os\ndef f(): return os.listdir('/')",
    "its own memory map": "def f(): return open('/proc/self/maps').read()",
    "the environment of a process": "import os\ndef f(): return open(f'/proc/{os.getppid()}/environ').read()",
    "a file in /tmp": "def f(): open('/tmp/wmtp-evil', 'w')",
    "a write to the standard library": "import os\ndef f(): open(os.__file__, 'a')",
    "a signal to its parent": "import os\ndef f(): os.kill(os.getppid(), 9)",
    "a signal by pidfd": "import os, signal\ndef f(): signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
    "another process": "import os\ndef f(): os.fork()",
    "a shell": "import subprocess\ndef f(): subprocess.run(['/bin/sh', '-c', 'true'])",
    "a file of 10 MB": "def f():\n    with open('x', 'wb') as file: file.write(bytes(10_000_000))",
    "10 MB of output": "def f():\n    while True: print('x' * 1000)",
    "a hundred open files": "def f(): return len([open(str(i), 'w') for i in range(100)])",
    "memory outside the limit": "import os\ndef f(): os.memfd_create('x')",
    "raising its limits": "import resource\ndef f(): resource.prlimit(0, resource.RLIMIT_NOFILE, (999, 999))",
    "system V memory": (
        "import ctypes, os\ndef f():\n    libc = ctypes.CDLL(None, use_errno=True)\n"
        "    if libc.shmget(0, 4096, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'shmget')"
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_program_must_not_reach_is_refused(worker, name):
    outcome = worker.run(REFUSED[name], CALL)
    assert outcome.status == "refused", outcome


def test_the_environment_is_empty(worker, monkeypatch):
    monkeypatch.setenv("WMTP_SECRET", "s3cret")
    test = TestCase("call", "()", "['LC_CTYPE', 'PYTHONHASHSEED', 'PYTHONUTF8']")
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
        expected = repr([stat.S_IFREG] * 3 + [stat.S_IFIFO] * 2)
        assert run(program, "f", [TestCase("call", "()", expected)]).status == "passed"


@pytest.mark.parametrize(
    "action",
    [
        "open({0!r}).read()",
        "open({0!r}, 'w')",
        "os.remove({0!r})",
        "os.chmod({0!r}, 0)",
        "os.chown({0!r}, 1, 1)",
        "os.utime({0!r}, (1, 1))",
        "os.truncate({0!r}, 0)",
        "os.setxattr({0!r}, 'user.x', b'')",
        "os.rename({0!r}, 'x')",
        "os.link({0!r}, 'x')",
        "os.symlink({0!r}, 'x') or open('x').read()",
    ],
)
def test_a_file_of_the_user_is_neither_read_nor_changed(worker, tmp_path, action):
    mine = tmp_path / "mine"
    mine.write_text("secret")
    before = mine.stat()
    outcome = worker.run(f"import os\ndef f(): return {action.format(str(mine))}", TestCase("call", "()", "'secret'"))
    assert outcome.status == "refused", outcome
    assert mine.read_text() == "secret"
    after = mine.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime) == (before.st_mode, before.st_uid, before.st_mtime)


def test_a_socket_of_the_user_is_not_reached(worker, tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        program = f"import socket\ndef f(): socket.socket(socket.AF_UNIX).connect({str(tmp_path / 'socket')!r})"
        assert worker.run(program, CALL).status == "refused"


@pytest.mark.parametrize(
    "action",
    [
        "resource.prlimit({0}, resource.RLIMIT_CPU, (1, 1))",
        "os.sched_setaffinity({0}, {{0}})",
        "os.setpriority(os.PRIO_PROCESS, {0}, 19)",
        "os.kill({0}, 0)",
    ],
)
def test_the_harness_itself_is_out_of_reach(worker, action):
    before = resource.getrlimit(resource.RLIMIT_CPU), os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    outcome = worker.run(f"import os, resource\ndef f(): {action.format(os.getpid())}", CALL)
    assert outcome.status == "refused", outcome
    after = resource.getrlimit(resource.RLIMIT_CPU), os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    assert before == after


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
    "20 MB in files": (
        "import time\ndef f():\n    for i in range(20): open(str(i), 'wb').write(bytes(10**6))\n    time.sleep(1)",
        "refused",
    ),
    "an answer of 10 MB": ("def f(): return 'x' * 10 ** 7", "failed"),
    "a value inside itself": ("def f():\n    x = []\n    x.append(x)\n    return x", "failed"),
    "an endless answer": ("def f():\n    while True: yield 1", "failed"),
}


@pytest.mark.parametrize("name", STOPPED)
def test_what_does_not_end_is_stopped(worker, name):
    program, status = STOPPED[name]
    outcome = worker.run(program, CALL)
    assert outcome.status == status if status else outcome.status != "passed", outcome


@pytest.mark.parametrize(
    "program",
    [
        "import os\ndef f():\n    for i in range(1100):\n        os.mkdir('d')\n        os.chdir('d')\n    return 1",
        "import os\ndef f():\n    os.mkdir('shut', 0)\n    return 1",
        "import os\ndef f():\n    os.symlink('/', 'root')\n    os.symlink('root', 'loop')\n    return 1",
        "import os\ndef f():\n    os.mkfifo('pipe')\n    return 1",
    ],
)
def test_whatever_a_program_makes_in_its_folder_is_removed(worker, program):
    worker.run(program, TestCase("call", "()", "1"))
    listing = worker.run("import os\ndef f(): return os.listdir()", TestCase("call", "()", "[]"))
    assert listing.status == "passed", listing


def test_a_program_finds_nothing_of_the_one_before(worker):
    worker.run("import os, sys\nos.environ['LEFT'] = '1'\nsys.modules['left'] = os\ndef f(): return 1", CALL)
    later = worker.run("import os, sys\ndef f(): return ['LEFT' in os.environ, 'left' in sys.modules]",
                       TestCase("call", "()", "[False, False]"))  # fmt: skip
    assert later.status == "passed"


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    jobs = [Job(program, "f", [CALL], Limits(cpu_seconds=0.3, wall_seconds=5, memory_mb=256)) for program in (
        "import os\nopen('x', 'w').write('x')\ndef f(): os._exit(1)", "def f():\n    while True: pass")]  # fmt: skip
    with SandboxPool(2) as pool:
        pool.run_many(jobs)
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
    _wait_until(lambda: not _confined_processes(str(tmp_path)))


def test_a_killed_harness_takes_its_programs_with_it(tmp_path):
    script = (
        "from weighted_mtp.evaluation.sandbox import Limits, run\n"
        "from weighted_mtp.data.schema import TestCase\n"
        f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
        "run('open(\"started\", \"w\").close()\\nwhile True: pass', 'f', [TestCase('call', '()', '1')],"
        " Limits(cpu_seconds=600, wall_seconds=600))\n"
    )
    harness = subprocess.Popen([sys.executable, "-c", script])
    _wait_until(lambda: list(tmp_path.glob("*/scratch/started")))
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    _wait_until(lambda: not _confined_processes(str(tmp_path)))


def _confined_processes(folder: str) -> list[int]:
    """Processes that have a folder under `folder` as working directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd").startswith(folder):  # noqa: PTH115
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
