"""The attacks of the package, tried once for each way in which this machine can keep programs in."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from weighted_mtp.data.schema import TestCase
from weighted_mtp.sandbox import Job, Limits, Outcome, SandboxPool
from weighted_mtp.sandbox.attacks import PATIENT, attacks, run_attacks
from weighted_mtp.sandbox.confinement import Isolation, bubblewrap, offered

NOBODY = 65534
WALLS = {
    "all": Isolation(namespaces=True, landlock=True, system_calls=True),
    "namespaces": Isolation(namespaces=True, landlock=False, system_calls=True),
    "landlock": Isolation(namespaces=False, landlock=True, system_calls=True),
}

_AS_NOBODY = f"""
import json, os, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
from weighted_mtp.sandbox.attacks import attacks, run_attacks
from weighted_mtp.sandbox.confinement import Isolation
isolation = Isolation(*json.loads(sys.argv[1]))
print(json.dumps({{f"{{f.attack.kind}}: {{f.attack.name}}": f.wrong for f in run_attacks(attacks(), isolation)}}))
"""

Findings = dict[str, list[str]]
"""What of each attack succeeded; "persistence: what is left at the end" is of all of them."""


def skip_unless_offered(walls: str) -> Isolation:
    """The isolation of that name, where this machine has it."""
    wanted = WALLS[walls]
    if any(needed and not there for needed, there in zip(wanted, offered(), strict=True)):
        pytest.skip(f"this machine has {offered()} alone")
    return wanted


@pytest.fixture
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """That of a name in WALLS, as an indirect parameter."""
    return skip_unless_offered(request.param)


@pytest.fixture(scope="session")
def findings() -> Callable[[str, str], Findings]:
    """(walls, "me" or "nobody") → findings; each pair is tried once."""

    @functools.cache
    def tried(walls: str, user: str) -> Findings | str:
        isolation = skip_unless_offered(walls)
        if user == "nobody":
            return _as_nobody(isolation)
        return {f"{f.attack.kind}: {f.attack.name}": f.wrong for f in run_attacks(attacks(), isolation)}

    def found(walls: str, user: str) -> Findings:
        result = tried(walls, user)
        assert not isinstance(result, str), result
        return result

    return found


def _as_nobody(isolation: Isolation) -> Findings | str:
    """Findings of a process of the user `nobody`, or why there are none; only root can start one.

    Where folders above the interpreter, its environment or these sources are root's alone, they are shadowed for this
    process by ones that are not.
    """
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user; all other tests run as an ordinary one already")
    source = Path(__file__).resolve().parents[2] / "src"
    needed = {path: _shut_above(path) for path in (Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), source)}
    shadowed = {path: shut for path, shut in needed.items() if shut is not None}
    options = [word for shut in dict.fromkeys(shadowed.values()) for word in ("--tmpfs", str(shut))]
    for path, shut in shadowed.items():
        between = reversed([parent for parent in path.parents if shut in parent.parents])
        options += [word for parent in between for word in ("--perms", "0755", "--dir", str(parent))]
        options += ["--ro-bind", str(path), str(path)]
    command = [sys.executable, "-c", _AS_NOBODY, json.dumps(isolation)]
    if shadowed:
        command = [str(bubblewrap()), "--dev-bind", "/", "/", *options, "--die-with-parent", *command]
    with tempfile.TemporaryDirectory(prefix="wmtp-nobody-") as folder:  # pytest's own are root's alone
        os.chown(folder, NOBODY, NOBODY)
        environment = {**os.environ, "TMPDIR": folder, "HOME": folder, "PYTHONPATH": str(source)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


def _shut_above(path: Path) -> Path | None:
    """The outermost folder above a path that is not everybody's."""
    return next((parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001), None)


class Worker:
    """Runs a program, then a harmless one that must pass on the same worker."""

    def __init__(self, pool: SandboxPool) -> None:
        self._pool = pool

    def run(
        self, program: str, *tests: TestCase, entry_point: str = "f", context: str = "", limits: Limits = PATIENT
    ) -> Outcome:
        harmless = Job("def f(x):\n    return x + 1\n", "f", [TestCase("call", "(1,)", "2")], PATIENT)
        job = Job(program, entry_point, tests, limits, context)
        outcome, after = self._pool.run_many([job, harmless])
        assert after.status == "passed", after
        return outcome


@pytest.fixture(scope="session", params=WALLS)
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    """One warm worker of each kind for all programs."""
    with SandboxPool(workers=1, isolation=skip_unless_offered(request.param)) as pool:
        yield Worker(pool)
