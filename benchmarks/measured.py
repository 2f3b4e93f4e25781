"""What tables of benchmarks have in common: the machine in their first line, medians and ratios with their spread."""

import os
import platform
import statistics
from collections.abc import Iterable
from pathlib import Path


def machine() -> str:
    """Processors, those of their instructions that decide, and the load of the last minute."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{os.cpu_count()} × {name} ({', '.join(fast)}), load {os.getloadavg()[0]:.1f}"


def spread(values: Iterable[float], digits: int = 2) -> str:
    """The median, the lowest and the highest."""
    found = list(values)
    middle, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(found), min(found), max(found)))
    return f"{middle} ({low} to {high})"


def ratio(of: Iterable[float], to: Iterable[float]) -> str:
    """The spread of what was measured in turns over what it is compared with, round by round."""
    return spread(a / b for a, b in zip(of, to, strict=True))
