"""Who runs the steps of a study: this process, processes of this machine, or Slurm (through submitit).

A scheduler is a context that yields `submit(step)`. Left by an error or Ctrl-C, it stops what still runs; training
saves a checkpoint first.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from weighted_mtp.errors import UserError
from weighted_mtp.parallel import cores, end_with
from weighted_mtp.progress import say
from weighted_mtp.study.config import StudyConfig
from weighted_mtp.study.running import Running, Submit, ending, result_of
from weighted_mtp.study.steps import Step, bottlenecks

SchedulerName = Literal["local", "slurm"]

_SECONDS_BETWEEN_LOOKS = 0.5


def scheduling(
    study: StudyConfig, steps: Sequence[Step], name: SchedulerName, jobs: int
) -> AbstractContextManager[Submit]:
    """The scheduler of that name. Raises `UserError` if it is not installed, and for parameters it does not know."""
    if name == "slurm":
        from weighted_mtp.study.slurm import on_slurm

        return on_slurm(study.slurm)
    return in_processes(jobs, bottlenecks(steps)) if jobs > 1 else in_this_process()


def run_steps(steps: Sequence[Step], submit: Submit, jobs: int) -> bool:
    """Run what is not finished, each step when those that it starts from are there, at most `jobs` at once.

    False if one was stopped. If one fails or is stopped, no other starts, and those that run are awaited. Raises
    `UserError` of the first that failed, and before anything runs for options that cannot be.
    """
    finished = {step.place for step in steps if step.is_finished()}
    waiting = [step for step in steps if step.place not in finished]
    running: dict[str, Running] = {}
    failures: list[UserError] = []
    stopped = False
    while running or (waiting and not stopped):
        ready = [step for step in waiting if step.after <= finished]
        for step in ready[: 0 if stopped else jobs - len(running)]:
            waiting.remove(step)
            running[step.place] = submit(step)
        for place in [place for place, handed_over in running.items() if handed_over.done()]:
            result = running.pop(place).result()
            if result is True:
                finished.add(place)
                say(f"{place}: finished, {len(finished)} of {len(steps)} steps")
                continue
            stopped = True
            if isinstance(result, UserError):
                failures.append(result)
            if running:
                say(f"{result or f'{place}: stopped'}; waiting for {', '.join(running)}")
        if running:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    if failures:
        raise failures[0]
    return not stopped


@contextmanager
def in_this_process() -> Iterator[Submit]:
    """One step after the other; an error is the step's own."""

    def submit(step: Step) -> Future[bool | UserError]:
        future = Future[bool | UserError]()
        future.set_result(step())
        return future

    yield submit


@contextmanager
def in_processes(jobs: int, alone: Container[str]) -> Iterator[Submit]:
    """`jobs` processes of this machine, each with its share of the cores; a step's output goes to its `log.txt`.

    alone  places of the steps that have all cores, as nothing runs beside them
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, _begin, (os.getpid(),)) as pool, ending(_end_processes):

        def submit(step: Step) -> Running:
            say(f"{step.place}: begins; {_log(step)}")
            threads = max(1, cores() // (1 if step.place in alone else jobs))
            return _InProcess(step, pool.submit(_outcome_alone, step, threads))

        yield submit


@dataclass(frozen=True)
class _InProcess:
    step: Step
    future: Future[bool | UserError]

    def done(self) -> bool:
        return self.future.done()

    def result(self) -> bool | UserError:
        try:
            return self.future.result()
        except BrokenProcessPool:
            return UserError(
                f"{self.step.place}: one of the processes was killed, most likely out of memory: give fewer "
                "--jobs; the same command resumes from here"
            )


def _end_processes() -> None:
    for process in multiprocessing.active_children():
        process.terminate()


def _begin(parent: int) -> None:
    """Once per process: it ends with its parent, and ignores Ctrl-C between steps."""
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcome_alone(step: Step, threads: int) -> bool | UserError:
    torch.set_num_threads(threads)
    log = _log(step)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        for output in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), output.fileno())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return result_of(step)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.stdout.flush()


def _log(step: Step) -> Path:
    return step.run / "log.txt"
