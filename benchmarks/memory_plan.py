"""The memory of a training run on the CPU, by rank: what `wmtp plan` says and what it takes, on one rank and on two.

    export PYTHONPATH=tests/distributed OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1048576
    uv run python benchmarks/memory_plan.py

planned    peak of a rank's tensors: parameters, gradients, optimizer, and what a step needs for the moment
tensors    the same as PyTorch's profiler sees it, every allocation and release of the CPU allocator since before the
           model was built: the sum before the second optimizer step and the most that one of the steps since then adds.
           What other threads release (gloo's, of gathered layers) the profiler does not see, so that its sum rises
           from step to step while the process does not grow
resident   what the process grows by, without the profiler: at most while the model is built and spread over ranks, and
           at most in a later step. Python, gloo and what malloc does not give back come on top of tensors; the
           variable above makes it give back all that is larger than a mebibyte

The plan is of full microbatches all of whose tokens are responses; the batches here are the micro benchmark's.
"""

import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from group import run_group, values
from runs import CONFIGS, overrides, prepare, train
from torch.profiler import ProfilerActivity, profile, record_function

from weighted_mtp.memory.configured import planned
from weighted_mtp.memory.plan import Machine, plan
from weighted_mtp.training.loop import Trainer
from weighted_mtp.training.updates import Updates

WIDE = [  # 104 M parameters, of which a step of 256 tokens needs more than activations
    *("model.micro.hidden_size=768", "model.micro.intermediate_size=3072", "model.micro.num_attention_heads=12"),
    *("model.micro.num_hidden_layers=8", "data.max_tokens=256"),
]
BUSY = [  # 11.7 M parameters and more than as much of activations
    *("model.micro.hidden_size=256", "model.micro.intermediate_size=1024", "model.micro.num_attention_heads=8"),
    *("model.micro.num_hidden_layers=8", "data.max_tokens=1024"),
]
STEPS = 6
STEPPED = ["model.source=micro", f"training.max_steps={STEPS}", "data.validation=null", "runtime.device=cpu"]
RUNS: dict[str, Sequence[str]] = {
    "full": [*WIDE],
    "full, reduced every microbatch": [*WIDE, "runtime.reduce_every_microbatch=true"],
    "LoRA, r 16": [*WIDE, "model.lora.r=16"],
    "small, full": [*BUSY],
    "small, LoRA, r 16": [*BUSY, "model.lora.r=16"],
    "small, full, checkpointing": [*BUSY, "runtime.activation_checkpointing=true"],
}
SPREAD = ((1, "full"), (2, "full"), (2, "ddp"))
PROBLEMS = 64  # so that no step is a short epoch's remainder


Run = tuple[Path, str, str, Sequence[str]]
"""Arguments of `runs.train`."""


@dataclass(frozen=True)
class Resident:
    """Bytes that a rank's process grew by, at most."""

    loading: int
    step: int


def baseline(storage: Path, name: str, ranks: int, *more: str) -> Run:
    """`STEPS` steps of a policy, of two microbatches a rank each."""
    return storage, "baseline", name, [*STEPPED, f"training.gradient_accumulation={2 * ranks}", *more]


def planned_peak(run: Run, ranks: int) -> float:
    """Bytes of one rank."""
    return plan(planned(CONFIGS / "baseline_local.yaml", tuple(overrides(*run))), Machine(ranks))[0].bytes.peak


def tensors_peak(*run: Any) -> int:
    """Bytes of this rank's tensors at the highest moment of a step of a `Run`. For a process of its own."""
    step = Updates.step

    def marked(self: Updates) -> dict[str, float]:
        with record_function("optimizer step"):
            return step(self)

    Updates.step, Trainer._save = marked, _not_saved  # type: ignore[method-assign]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train(*run)
    events = profiler.profiler.kineto_results.events()
    steps = sorted((e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if e.name() == "optimizer step")
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    times = [at for at, _ in memory]
    sums = [0, *accumulate(change for _, change in memory)]  # before the first event, and after each
    spans = [(bisect_left(times, start), bisect_right(times, end)) for start, end in steps[1:]]
    return sums[spans[0][0]] + max(max(sums[first : last + 1]) - sums[first] for first, last in spans)


def resident_peaks(*run: Any) -> Resident:
    """By what this rank's process grows in a `Run`. For a process of its own."""
    step, before, peaks = Updates.step, _resident("VmRSS"), []
    _forget_peak()

    def watched(self: Updates) -> dict[str, float]:
        peaks.append(_resident("VmHWM") - before)
        _forget_peak()
        return step(self)

    Updates.step, Trainer._save = watched, _not_saved  # type: ignore[method-assign]
    train(*run)
    return Resident(loading=peaks[0], step=_resident("VmHWM") - before)


def _not_saved(*_: object) -> None:
    pass


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _resident(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def main(runs: Annotated[str, typer.Option(help="Which, by what they begin with.")] = "") -> None:
    storage = Path(tempfile.mkdtemp())
    values(run_group(1, prepare, storage, PROBLEMS))
    print(
        f"torch {torch.__version__}, 1 thread a rank; MiB, resident of each rank, tensors of the one that takes most\n"
    )
    print("| run | ranks | planned | tensors | resident, loading | resident, step | planned / tensors |")
    print("|" + "---|" * 7)
    for name, more in RUNS.items():
        for ranks, parallel in SPREAD if name.startswith(runs) else ():
            run = baseline(storage, f"{name} {ranks} {parallel}", ranks, *more, f"runtime.parallel={parallel}")
            says, takes = planned_peak(run, ranks), max(values(run_group(ranks, tensors_peak, *run)))
            grown = values(run_group(ranks, resident_peaks, *run))
            loading, step = [r.loading for r in grown], [r.step for r in grown]
            numbers = " | ".join(_mebibytes(x) for x in ([says], [takes], loading, step))
            print(f"| {name} | {ranks} {parallel} | {numbers} | {says / takes:.2f} |", flush=True)


def _mebibytes(numbers: Sequence[float]) -> str:
    return ", ".join(f"{x / 2**20:,.0f}" for x in numbers)


if __name__ == "__main__":
    typer.run(main)
