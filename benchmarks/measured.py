"""What tables of benchmarks have in common: the machine in their first line, medians and ratios with their spread, and
the arithmetic that a training step takes.
"""

import os
import platform
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any


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


def training_flops(model: Any, rows: int, length: int) -> float:
    """The arithmetic of a policy's microbatch, nothing recomputed.

    2 per parameter and token forward, as many for the gradient of activations and, for parameters in training, as many
    again (Chowdhery et al. 2022, arXiv 2204.02311, appendix B); every head is unembedded, and attention is causal.
    """
    output = model.get_output_embeddings().weight
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and p is not output and "embed" not in n]
    heads, config = model.config.n_future_tokens, model.config.get_text_config()
    per_token = sum(p.numel() * (6 if p.requires_grad else 4) for p in matrices)
    per_token += heads * output.numel() * (6 if output.requires_grad else 4)
    layers = config.num_hidden_layers - 1 + heads
    per_token += 6 * layers * length * config.num_attention_heads * config.head_dim
    return rows * length * per_token
