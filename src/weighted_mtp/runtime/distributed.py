"""The ranks of a run, as `torchrun` starts them: what they sum and agree on, and who prints.

In one process without `torchrun`, or with one rank, every function here gives back what it was given, and torch is not
imported.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from weighted_mtp.errors import UserError
from weighted_mtp.progress import console
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.speaker import AnotherRankError, count_errors_in

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# How the libraries below say that another rank is gone; they raise RuntimeError, or what wraps its message.
_LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL", "Timed out waiting")


def _joined() -> bool:
    """Whether this process has joined a group; it has not where nothing has imported what joins it."""
    found = sys.modules.get("torch.distributed")
    return found is not None and found.is_initialized()


def rank() -> int:
    """This process among the run's, from 0."""
    return sys.modules["torch.distributed"].get_rank() if _joined() else 0


def ranks() -> int:
    """How many processes the run has."""
    return sys.modules["torch.distributed"].get_world_size() if _joined() else 1


def of_ranks() -> str:
    """Which of several ranks this is, in words that follow a title; "" for one rank."""
    return f", rank {rank()} of {ranks()}" if ranks() > 1 else ""


def is_first() -> bool:
    """Whether this is the rank that writes files and speaks to the user."""
    return rank() == 0


@contextmanager
def process_group(config: RuntimeConfig) -> Iterator[None]:
    """Join the ranks that `torchrun` started; a process that it did not start, or the only one, stays as it is.

    CPU tensors travel by gloo, CUDA tensors by nccl. Only the first rank's console speaks. Raises UserError if a
    rank has no GPU of its own, and, whatever an operation between ranks raised, if another rank is lost.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _joined():
        yield
        return
    import torch
    from torch import distributed as dist
    from torch.distributed.rendezvous import rendezvous

    from weighted_mtp.runtime.device import pick_device

    device, local = pick_device(config), int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"local rank {local}, but PyTorch sees {torch.cuda.device_count()} GPUs here: "
                "give torchrun a smaller --nproc_per_node, or set runtime.device=cpu"
            )
        torch.cuda.set_device(local)
    if device.type == "mps":
        raise UserError(
            "runtime.device=mps is one GPU, which ranks cannot share: start one process, or set runtime.device=cpu"
        )
    console.quiet = int(os.environ["RANK"]) != 0
    try:
        store, number, world = next(rendezvous("env://"))
        count_errors_in(store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=number,
            world_size=world,
            timeout=timedelta(seconds=config.timeout_seconds),
        )
        yield
        any_rank(False)  # leave together
    except BaseException as error:
        # No farewell: the others may be waiting in an operation that this rank will never join.
        if _is_loss(error):
            raise UserError(
                f"another rank is lost: it failed, was killed, or did not answer for runtime.timeout_seconds="
                f"{config.timeout_seconds}; the same command resumes from the newest checkpoint"
            ) from error
        raise
    dist.destroy_process_group()


def all_reduce_sum(x: "Tensor") -> "Tensor":
    """The sum of all ranks' tensors of one shape, on every rank and where `x` is."""
    if ranks() == 1:
        return x
    from torch import distributed as dist

    total = x.detach().to("cpu", copy=True)
    dist.all_reduce(total)
    return total.to(x.device)


def all_gather(x: "Tensor") -> "list[Tensor]":
    """All ranks' tensors (n, …), in the order of ranks, where `x` is; n may differ between ranks."""
    if ranks() == 1:
        return [x]
    import torch
    from torch import distributed as dist

    counts = all_reduce_sum(torch.eye(ranks(), dtype=torch.int64)[rank()] * len(x)).tolist()
    padded = torch.zeros((max(counts), *x.shape[1:]), dtype=x.dtype)
    padded[: len(x)] = x.detach().cpu()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return [part[:count].to(x.device) for part, count in zip(parts, counts, strict=True)]


def all_gather_objects(x: T) -> list[T]:
    """All ranks' objects, in the order of ranks."""
    if ranks() == 1:
        return [x]
    from torch import distributed as dist

    found: list[Any] = [None] * ranks()
    dist.all_gather_object(found, x)
    return found


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank: the same answer on all."""
    if ranks() == 1:
        return flag
    import torch

    return bool(all_reduce_sum(torch.tensor(int(flag))))


@contextmanager
def agree() -> Iterator[None]:
    """Leave on all ranks in the same way: if one fails in what only it does, the others raise AnotherRankError."""
    if ranks() == 1:
        yield
        return
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        if _is_loss(error):
            raise
        failure = error
    failed = [number for number, wrong in enumerate(all_gather_objects(failure is not None)) if wrong]
    if failure is not None:
        raise failure
    if failed:
        raise AnotherRankError(f"rank {failed[0]} failed")


def by_first_rank(work: Callable[[], T]) -> T:
    """What the first rank's `work()` returns, on every rank; if it fails, it fails on every rank."""
    if ranks() == 1:
        return work()
    from torch import distributed as dist

    result: list[Any] = [None]
    with agree():
        if is_first():
            result[0] = work()
    dist.broadcast_object_list(result, src=0)
    return result[0]


def _is_loss(error: BaseException) -> bool:
    from torch import distributed as dist

    return isinstance(error, dist.DistError) or (
        not isinstance(error, UserError) and any(sign in str(error) for sign in _LOST)
    )
