"""Work over all cores: results in the order of what they were made of, whoever made them."""

import functools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from weighted_mtp.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_SECONDS_BETWEEN_LOOKS = 0.2


def cores() -> int:
    """Processors that this process may use, by its affinity and its container's quota."""
    from joblib import cpu_count

    return int(cpu_count())


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """`map(function, items)` by `workers` processes, lazily, some items ahead; in this process if it is one.

    The processes are spawned and import only what `function` needs, so neither threads nor devices of this one matter.
    They end with it even if it is killed, so that no orphan writes beside a command that is run again.

    Raises what `function` raises, and UserError if a process is killed from outside.
    """
    if workers == 1:
        yield from map(function, items)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        yield from Parallel(workers, return_as="generator", batch_size=1, max_nbytes=None)(
            delayed(_call)(function, item, os.getpid()) for item in items
        )
    except TerminatedWorkerError as error:
        raise UserError(
            f"one of {workers} worker processes was killed, most likely out of memory: give fewer --workers; "
            "the same command resumes from here"
        ) from error


def _call(function: Callable[[Item], Result], item: Item, parent: int) -> Result:
    end_with(parent)
    return function(item)


@functools.cache
def end_with(parent: int) -> None:
    """Once per process: a thread that checks whether the parent is still there."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
