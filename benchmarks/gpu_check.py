"""Everything that only a GPU can tell, in one command: first whether it is right, then how fast. Needs no model file.

    PYTORCH_ALLOC_CONF=expandable_segments:True uv run python benchmarks/gpu_check.py            # a GPU, < 8 minutes
    uv run python benchmarks/gpu_check.py --device cpu --small --output /tmp/rehearsal           # a rehearsal
    uv run python benchmarks/gpu_check.py --only policy_steps --only synchronisations

Prints what each check asks, its verdict and its numbers, and writes them to `gpu_check.json` and `gpu_check.md` in
`--output` after every check, so that nothing is lost where one of them takes the process down. Exits with 1 where one
fails. Covered: parity with the CPU, FSDP2 over NCCL on a mesh of one GPU, offload, resume, sampling, speed, memory
beside the plan. Not covered: NCCL between ranks and hybrid sharding.
"""

import json
import sys
import time
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [
    str(ROOT / "tests" / "support"),
    str(ROOT / "tests" / "distributed"),
]  # whose tiny models and runs it uses

from gpu_checks import parity, runs, speed  # noqa: E402
from gpu_checks.bench import Bench, Check, Numbers  # noqa: E402

CHECKS: list[Check] = [
    *(speed.ceilings, parity.policy_steps, parity.weightings_and_critics, parity.linear_cross_entropy),
    *(parity.attention, parity.dropout, parity.sampling, runs.synchronisations, runs.copies_to_the_cpu),
    *(runs.sharded_by_one_rank, runs.pipelines_resume, runs.saving, speed.loss, speed.attention_kernels, speed.steps),
    speed.tokens_per_second,
]


@dataclass(frozen=True)
class Result:
    """One check: what it asks, whether that holds, and what was measured."""

    check: str
    asks: str
    ok: bool
    seconds: float
    numbers: Numbers


def run(check: Check, bench: Bench) -> Result:
    started = time.perf_counter()
    try:
        with warnings.catch_warnings(action="ignore"):
            numbers, ok = check(bench), True
    except Exception as error:  # whatever it is, the other checks still have something to say
        numbers, ok = {"error": f"{type(error).__name__}: {error}"}, False
        traceback.print_exc()
    bench.clear()
    asks = " ".join((check.__doc__ or "").split())
    return Result(check.__name__, asks, ok, round(time.perf_counter() - started, 1), numbers)


def markdown(results: list[Result]) -> str:
    lines = ["| check | verdict | seconds | what it asks | numbers |", "|---|---|---|---|---|"]
    for r in results:
        numbers = "<br>".join(f"{name}: {value}" for name, value in r.numbers.items()).replace("|", "\\|")
        verdict = "ok" if r.ok else "**FAILED**"
        lines.append(f"| {r.check.replace('_', ' ')} | {verdict} | {r.seconds} | {r.asks} | {numbers} |")
    return "\n".join(lines) + "\n"


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu for a rehearsal.")] = "cuda",
    small: Annotated[bool, typer.Option("--small", help="Small shapes: whether it runs, not how fast.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Only this check; may be repeated.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = ROOT / "benchmarks" / "results",
) -> None:
    """Check a GPU: right first, then fast."""
    names = [check.__name__ for check in CHECKS]
    if unknown := sorted({*(only or ())} - {*names}):
        raise typer.BadParameter(f"--only {unknown[0]}: no such check; there are {', '.join(names)}")
    bench, results, started = Bench.on(device, small), list[Result](), time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    for check in CHECKS:
        if only and check.__name__ not in only:
            continue
        results.append(run(check, bench))
        result = results[-1]
        print(f"{'ok' if result.ok else 'FAILED':7}{result.seconds:6.1f} s  {result.check}: {result.asks}", flush=True)
        for name, value in result.numbers.items():
            print(f"{'':17}{name}: {value}", flush=True)
        (output / "gpu_check.json").write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
        (output / "gpu_check.md").write_text(markdown(results))
    passed = sum(result.ok for result in results)
    print(f"{passed} of {len(results)} ok, {time.perf_counter() - started:.0f} s")
    raise typer.Exit(int(passed < len(results)))


if __name__ == "__main__":
    typer.run(main)
