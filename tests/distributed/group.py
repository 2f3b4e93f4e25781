"""Real process groups (gloo) on this machine, without torchrun's seconds of start-up: ranks are forks of the caller."""

import multiprocessing
import os
import socket
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("fork")


class RankFailedError(Exception):
    """What a rank raised, with its traceback; or that it is gone."""


@dataclass(frozen=True)
class Ended:
    """How a rank came to its end: what it returned, or what it raised."""

    value: Any = None
    error: str | None = None
    trace: str = ""


def run_group(world: int, function: Callable[..., Any], *arguments: Any, per_node: int | None = None) -> list[Ended]:
    """Call a function on `world` ranks; a rank that dies without a word has the error `exit code …`."""
    port = _free_port()
    ends, ranks = [], []
    for rank in range(world):
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(
            target=_rank, args=(theirs, rank, world, per_node or world, port, function, arguments)
        )
        with warnings.catch_warnings(action="ignore"):  # of forks of a process that has threads, from Python 3.12 on
            process.start()
        theirs.close()
        ranks.append((process, ours))
    for process, ours in ranks:
        try:
            ends.append(ours.recv())
        except EOFError:
            process.join()
            ends.append(Ended(error=f"exit code {process.exitcode}"))
        process.join()
    return ends


def values(ends: list[Ended]) -> list[Any]:
    """What the ranks returned. Raises `RankFailedError` if one did not."""
    for rank, end in enumerate(ends):
        if end.error is not None:
            raise RankFailedError(f"rank {rank}: {end.error}\n{end.trace}")
    return [end.value for end in ends]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _rank(
    answer: Connection,
    rank: int,
    world: int,
    per_node: int,
    port: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank % per_node),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(per_node),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        with Path(os.devnull).open("w") as nothing, redirect_stderr(nothing):
            answer.send(Ended(function(*arguments)))
    except BaseException as error:
        answer.send(Ended(error=f"{type(error).__name__}: {error}", trace=traceback.format_exc()))
