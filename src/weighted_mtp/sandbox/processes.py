"""What the kernel says of another process. Where it says nothing, as of one that has just ended, nothing is raised."""

import os
import time
from pathlib import Path


def cpu_clock(pid: int) -> float:
    """CPU seconds of a process by the kernel's clock of it (clock_getcpuclockid(3)); 0 when it has just ended."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def children(pid: int) -> list[int]:
    """Process ids of a process' children; none if the kernel does not say."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def innermost(pid: int) -> int:
    """The last of a chain of processes of which each has started the next."""
    while started := children(pid):
        pid = started[-1]
    return pid


def threads(pid: int) -> int:
    """How many threads a process has, by the links to their folder; 0 when it has just ended."""
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2  # noqa: PTH116 - called in a loop
    except OSError:
        return 0
