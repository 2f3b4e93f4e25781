"""Which rank of a run shows an error. Without torch: a mistyped command is answered before that is loaded."""

import hashlib
import os
from typing import Protocol

from weighted_mtp.errors import UserError


class AnotherRankError(UserError):
    """Another rank failed, and says how itself."""


class SharedCounter(Protocol):
    """What is needed of torch's stores."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number that all ranks share, and return it."""


_counter: SharedCounter | None = None


def count_errors_in(counter: SharedCounter) -> None:
    """Let ranks agree by `counter` on who speaks."""
    global _counter
    _counter = counter


def speaks(message: str) -> bool:
    """Whether this rank is to show an error: of ranks with the same one, the first to come."""
    if _counter is None:
        return int(os.environ.get("LOCAL_RANK", "0")) == 0
    try:
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return _counter.add(f"said/{start}/{hashlib.sha256(message.encode()).hexdigest()}", 1) == 1
    except RuntimeError:  # the rank that keeps the store is gone
        return True
