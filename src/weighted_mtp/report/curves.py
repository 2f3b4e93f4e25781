"""Learning curves of runs: arms with several seeds, side by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_file
from weighted_mtp.training.run_directory import Record
from weighted_mtp.wording import nearest

Curve = Mapping[int, float]
"""Step → value."""
Split = Literal["train", "validation"]
OF_CRITICS = ("pair_accuracy", "localisation_auc", "drift", "brier")
"""Metrics that say what a critic is worth."""


def read_metrics(run: Path, split: Split | None = None) -> list[Record]:
    """The records of a run's `metrics.jsonl`, of both splits or one. Raises `UserError` if there is none."""
    file = run / "metrics.jsonl"
    if not file.is_file():
        raise UserError(f"{run}: holds no metrics.jsonl; give the folder of a run")
    records = map(json.loads, file.read_text().splitlines())
    return [record for record in records if split in (None, record["split"])]


def cells(record: Record, metrics: Sequence[str]) -> list[str]:
    """A record's values of these metrics for a table, – for one that it lacks."""
    return [f"{record[name]:.3f}" if name in record else "–" for name in metrics]


def plot_curves(
    arms: Mapping[str, Sequence[Path]],
    metric: str,
    output: Path,
    split: Split = "validation",
) -> Path:
    """Draw a metric of several runs by step, as `plot_lines`.

    arms  name → its runs, one per seed

    Raises `UserError` for a run without metrics, and if one has none of that name, naming the nearest.
    """
    lines = {name: [_line(run, metric, split) for run in runs] for name, runs in arms.items()}
    return plot_lines(lines, f"{metric}, {split}", output)


def plot_lines(arms: Mapping[str, Sequence[Curve]], label: str, output: Path) -> Path:
    """Draw arms on the same axes, one colour per arm: seeds thin, their mean thick wherever all of them have a
    value."""
    from matplotlib.figure import Figure  # an extra; and reading metrics needs none of it

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step", ylabel=label)
    for number, (name, lines) in enumerate(arms.items()):
        if len(lines) > 1:
            for line in lines:
                axes.plot(*_points(line), color=f"C{number}", lw=0.6, alpha=0.5)
        seeds = f" ({len(lines)} seeds)" if len(lines) > 1 else ""
        axes.plot(*_points(mean_line(lines)), color=f"C{number}", lw=2, marker="o", ms=3, label=name + seeds)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with atomic_file(output) as partial:
        figure.savefig(partial, format=output.suffix[1:] or "png", dpi=120)
    return output


def mean_line(lines: Sequence[Curve]) -> dict[int, float]:
    """The mean at every step that all lines have; a mean over fewer seeds would jump where one ends."""
    common = set.intersection(*(set(line) for line in lines)) if lines else set()
    return {step: sum(line[step] for line in lines) / len(lines) for step in sorted(common)}


def _points(line: Curve) -> tuple[list[int], list[float]]:
    steps = sorted(line)
    return steps, [line[step] for step in steps]


def _line(run: Path, metric: str, split: Split) -> dict[int, float]:
    records = read_metrics(run, split)
    line = {r["step"]: r[metric] for r in records if metric in r}
    if not line:
        known = sorted({name for r in records for name in r} - {"step", "split"})
        hint = f"the nearest is {nearest(metric, known)}" if known else "it has none at all"
        raise UserError(f"{run}: no {split} record has the metric {metric}; {hint}")
    return line
