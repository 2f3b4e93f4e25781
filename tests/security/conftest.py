"""One warm worker for all hostile programs: each must leave it fit for the next."""

from collections.abc import Iterator

import pytest

from weighted_mtp.data.schema import TestCase
from weighted_mtp.evaluation.sandbox import Job, Limits, Outcome, SandboxPool

LIMITS = Limits(cpu_seconds=1.0, wall_seconds=6.0, memory_mb=256, output_bytes=1 << 20)


class Worker:
    """Runs a program, then a harmless one that must pass on the same worker."""

    def __init__(self, pool: SandboxPool) -> None:
        self._pool = pool

    def run(self, program: str, *tests: TestCase, entry_point: str = "f", context: str = "") -> Outcome:
        harmless = Job("def f(x):\n    return x + 1\n", "f", [TestCase("call", "(1,)", "2")], LIMITS)
        job = Job(program, entry_point, tests, LIMITS, context)
        outcome, after = self._pool.run_many([job, harmless])
        assert after.status == "passed", after
        return outcome


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    with SandboxPool(workers=1) as pool:
        yield Worker(pool)
