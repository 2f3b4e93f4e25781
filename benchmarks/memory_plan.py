"""`wmtp plan` against the memory that the same run takes, on the CPU: peak of one rank in its second optimizer step.

    uv run python benchmarks/memory_plan.py [--storage DIR]

Measured by PyTorch's profiler, which sees every allocation and release of the CPU allocator: their sum since before the
model was built, at its highest within the step. A plan is of full microbatches all of whose tokens are responses; the
batches here are the micro benchmark's, as they come.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from weighted_mtp.pipelines.plan import Machine, plan
from weighted_mtp.pipelines.planned import planned
from weighted_mtp.pipelines.run_baseline import run_baseline
from weighted_mtp.training.loop import Trainer

CONFIG = Path(__file__).parents[1] / "configs" / "local" / "baseline_local.yaml"
SIZE = ("hidden_size=256", "intermediate_size=1024", "num_hidden_layers=8", "num_attention_heads=8")
RUNS = {
    "full parameters, fp32": [],
    "full parameters, bf16": ["runtime.precision=bf16"],
    "two microbatches a step": ["training.gradient_accumulation=2"],
    "LoRA, r 16": ["model.lora.r=16"],
    "small microbatches": ["data.max_tokens=512"],
}


def measured_peak(config) -> int:
    """Bytes at the highest moment of the last optimizer step of a baseline run."""
    step = Trainer._step

    def marked(self):
        with record_function("optimizer step"):
            return step(self)

    Trainer._step = marked
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run_baseline(config)
    finally:
        Trainer._step = step
    events = profiler.profiler.kineto_results.events()
    last = max((e for e in events if e.name() == "optimizer step"), key=lambda e: e.start_ns())
    now = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        if last.start_ns() <= event.start_ns() <= last.start_ns() + last.duration_ns():
            most = max(most, now)
    return most


def options(storage: Path, name: str) -> tuple[str, ...]:
    return (
        f"run.root={storage}/runs",
        f"run.name={name}",
        f"data.root={storage}/datasets",
        f"model.micro_tokenizer={storage}/datasets/micro/tokenizer",
        "model.source=micro",
        "mlflow.enabled=false",
        "runtime.device=cpu",
        "training.max_steps=2",
        "training.validation_batches=1",
        "data.max_length=160",
        *(f"model.micro.{size}" for size in SIZE),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--storage", type=Path, default=None, help="folder with datasets; a temporary one by default")
    storage = parser.parse_args().storage or Path(tempfile.mkdtemp())
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread\n\n| run | planned MB | measured MB | ratio |\n|---|---|---|---|")
    for number, (name, more) in enumerate(RUNS.items()):
        run = planned(CONFIG, (*options(storage, f"plan-{number}"), *more))
        measured = measured_peak(run.config)
        peak = plan(run, Machine(1))[0].bytes.peak
        print(f"| {name} | {peak / 1e6:.1f} | {measured / 1e6:.1f} | {peak / measured:.2f} |", flush=True)


if __name__ == "__main__":
    main()
