"""The training curve of a run, as a picture and as a few lines of text."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.table import Table

from weighted_mtp.errors import UserError

mpl.use("Agg")

Record = dict[str, Any]


def read_metrics(run: Path) -> list[Record]:
    """The records of a run's `metrics.jsonl`. Raises `UserError` where there is none."""
    file = run / "metrics.jsonl"
    if not file.is_file():
        raise UserError(f"{run}: holds no metrics.jsonl; give the folder of a run")
    return [json.loads(line) for line in file.read_text().splitlines()]


def plot_curve(run: Path) -> Path:
    """Draw cross-entropy by step, one colour a head, training thin and validation thick; returns `curve.png`."""
    records = read_metrics(run)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="cross-entropy, nats a token", title=run.name)
    for number, name in enumerate(_heads(records)):
        for split, style in (("train", {"lw": 0.6, "alpha": 0.5}), ("validation", {"lw": 2, "marker": "o", "ms": 3})):
            points = [(r["step"], r[name]) for r in records if r["split"] == split and name in r]
            if points:
                axes.plot(*zip(*points, strict=True), color=f"C{number}", label=f"{name[3:]} {split}", **style)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    path = run / "curve.png"
    figure.savefig(path, dpi=120)
    return path


def curve_table(run: Path) -> Table:
    """Validation loss, and cross-entropy of each head, at every validation."""
    records = [r for r in read_metrics(run) if r["split"] == "validation"]
    heads = _heads(records)
    table = Table("step", "loss", *(name[3:] for name in heads), title="validation, nats a token", title_justify="left")
    for r in records:
        table.add_row(str(r["step"]), f"{r['loss']:.3f}", *(f"{r[name]:.3f}" for name in heads))
    return table


def _heads(records: list[Record]) -> list[str]:
    return [name for name in records[-1] if name.startswith("ce/")] if records else []
