"""The machine that a benchmark ran on, for the first line of its table."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """Processors, those of their instructions that decide, and the load of the last minute."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{os.cpu_count()} × {name} ({', '.join(fast)}), load {os.getloadavg()[0]:.1f}"
