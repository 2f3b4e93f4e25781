"""Many programs, a tenth of them hostile: does anything leak, and do the verdicts stay the same?

    uv run python benchmarks/sandbox_soak.py --data ../shared/data --programs 50000

Harmless programs are HumanEval's canonical solutions, mutants of them, calls and scripts; hostile ones are the attacks
of `wmtp doctor`. Each kind comes in rounds, and what lasts (a mutant that never ends, an attack that sleeps) is in one
round of ten. The same programs run twice, each time on a new pool, the second time beside `--burners` busy processes.
After every `--every` programs and when all is closed: memory of this process and of all that it has started, open
descriptors, threads, processes, scratch folders; at the end also what attacks wanted to change.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from mutants import completions

from weighted_mtp.data.schema import records
from weighted_mtp.data.sources import humaneval
from weighted_mtp.evaluation.benchmarks import benchmark
from weighted_mtp.sandbox import Job, SandboxPool, TestCase
from weighted_mtp.sandbox.attacks import LIMITS, Bait, attacks
from weighted_mtp.sandbox.scratch import PREFIX

HOSTILE = 10  # one in so many
PATIENT = replace(LIMITS, cpu_seconds=2.0, wall_seconds=30.0)  # other memory would be another confinement, started anew
LASTING = 0.5  # seconds, from which on a program lasts
LASTING_ROUNDS = 10  # one in so many has those that last
MIB = 1 << 20


class Slow(NamedTuple):
    """Places of the programs that last."""

    harmless: set[int]
    attacks: set[int]


def harmless(data: Path, mutants: int) -> list[Job]:
    """The programs that are repeated, in a fixed order."""
    problems, solutions = records(humaneval.read(data / "humaneval" / "HumanEval.jsonl.gz"))
    scored = benchmark("humaneval")
    jobs = [scored.program_job(p, s.code) for p, s in zip(problems, solutions, strict=True)]
    jobs += [scored.job(problem, text) for problem, text in completions(problems, solutions, mutants)]
    for number in range(200):
        call = TestCase("call", f"({number}, 1)", str(number + 1 + number % 2))
        script = TestCase("stdio", f"{number}\n", f"{number + 1}\n")
        jobs += [Job("def add(a, b): return a + b", "add", [call]), Job("print(int(input()) + 1)", "", [script])]
    random.Random(0).shuffle(jobs)
    return [replace(job, limits=PATIENT) for job in jobs]


@contextlib.contextmanager
def bait() -> Iterator[Bait]:
    """What attacks are after."""
    with tempfile.TemporaryDirectory(prefix="wmtp-bait-") as folder, contextlib.closing(Bait(Path(folder))) as laid:
        yield laid


def tried(laid: Bait) -> list[Job]:
    """All attacks, each in all its ways."""
    return [job for attack in attacks() for job in attack.jobs(laid)]


def lasting(jobs: list[Job], workers: int) -> set[int]:
    """Places of those that last."""
    with SandboxPool(workers) as pool:
        return {place for place, outcome in pool.outcomes(jobs) if outcome.seconds >= LASTING}


def rounds(jobs: list[Job], slow: set[int]) -> Iterator[Job]:
    """The jobs again and again, without end."""
    for number in count():
        yield from (job for place, job in enumerate(jobs) if place not in slow or number % LASTING_ROUNDS == 0)


def programs(number: int, harmless: Iterator[Job], hostile: Iterator[Job]) -> Iterator[Job]:
    """`number` jobs, every tenth an attack."""
    return (next(hostile if place % HOSTILE == HOSTILE - 1 else harmless) for place in range(number))


def in_use() -> dict[str, float]:
    """What this process and those that it has started hold, by name."""
    tree = _tree(os.getpid())
    return {
        "MiB here": _resident(os.getpid()),
        "MiB of children": sum(map(_resident, tree[1:])),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "processes": len(tree),
        "scratch folders": len(list(Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getpid()}-*"))),
    }


def _tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _resident(pid: int) -> float:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
    return 0.0


def show(done: int, start: float, used: dict[str, float]) -> None:
    amounts = ", ".join(f"{name} {value:.0f}" for name, value in used.items())
    seconds = time.perf_counter() - start
    print(f"{done:>7,} in {seconds:.0f} s ({done / seconds:.0f} a second): {amounts}", flush=True)


def run(number: int, every: int, workers: int, peaceful: list[Job], slow: Slow) -> list[tuple[str, int | None]]:
    """All programs once → (status, failing test) of each. Raises SystemExit where an attack has succeeded."""
    verdicts: list[tuple[str, int | None]] = [("", None)] * number
    before, start = in_use(), time.perf_counter()
    with bait() as laid:
        with SandboxPool(workers) as pool:
            finished = pool.outcomes(
                programs(number, rounds(peaceful, slow.harmless), rounds(tried(laid), slow.attacks))
            )
            for done, (place, outcome) in enumerate(finished, 1):
                verdicts[place] = outcome.status, outcome.test
                if place % HOSTILE == HOSTILE - 1 and outcome.status == "passed":
                    raise SystemExit(f"program {place}, an attack, passed")
                if done % every == 0:
                    show(done, start, in_use())
        if harm := laid.harm():
            raise SystemExit(f"attacks succeeded: {harm}")
    left = in_use()
    show(number, start, left)
    for name, amount in left.items():
        if not name.startswith("MiB") and amount > before[name]:  # memory is for the reader: allocators keep some
            raise SystemExit(f"left: {name} {amount:.0f}, and {before[name]:.0f} before")
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of humaneval/")
    parser.add_argument("--programs", type=int, default=50_000)
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--every", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=2, help="more than cores, since attacks that sleep use none")
    parser.add_argument("--burners", type=int, default=2, help="busy processes beside the second run")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    peaceful = harmless(options.data, options.mutants)
    with bait() as laid:
        slow = Slow(lasting(peaceful, options.workers), lasting(tried(laid), options.workers))
    print(f"{len(slow.harmless)} of {len(peaceful)} harmless programs and {len(slow.attacks)} attacks last {LASTING} s")
    arguments = options.programs, options.every, options.workers, peaceful, slow
    first = run(*arguments)
    print("statuses:", dict(Counter(status for status, _ in first).most_common()))
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.burners)]
    try:
        print(f"again, beside {options.burners} busy processes; load {os.getloadavg()[0]:.1f}")
        second = run(*arguments)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    differing = [place for place, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
    print(f"{len(differing)} of {options.programs:,} verdicts differ")
    for place in islice(differing, 20):
        print(f"    program {place}: {first[place]}, then {second[place]}")


if __name__ == "__main__":
    main()
