"""What a prepared dataset holds, as one picture and as the lines of a table."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, ScalarFormatter
from rich.table import Table

from weighted_mtp.data.stats import LENGTH_BINS, SplitStats

mpl.use("Agg")

PICTURE = "stats.png"
_COLOURS = {"correct": "tab:blue", "incorrect": "tab:orange"}
_TEST_COLOURS = {"public": "tab:green", "private": "tab:olive", "generated": "tab:gray"}


def plot_stats(folder: Path, stats: dict[str, SplitStats]) -> Path:
    """Draw label balance, program lengths by label, difficulties and tests of a dataset; returns `stats.png`."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(folder.name)
    panels = figure.subplots(2, 2)
    _plot_labels(panels[0, 0], stats)
    _plot_lengths(panels[0, 1], stats)
    _plot_difficulties(panels[1, 0], stats)
    _plot_tests(panels[1, 1], stats)
    path = folder / PICTURE
    figure.savefig(path, dpi=120)
    return path


def stats_table(name: str, stats: dict[str, SplitStats]) -> Table:
    """Counts, label balance, tests and median lengths: a column a split."""
    table = Table(name)
    for split in stats:
        table.add_column(split, justify="right")
    rows: dict[str, Callable[[SplitStats], str]] = {
        "problems": lambda s: f"{s['problems']:,}",
        "correct solutions": lambda s: f"{s['correct']:,}",
        "incorrect solutions": lambda s: f"{s['incorrect']:,}",
        "share correct": lambda s: f"{s['correct'] / n:.0%}" if (n := s["correct"] + s["incorrect"]) else "–",
        "problems with both": lambda s: f"{s['with_both_labels']:,}",
        "pairs": lambda s: f"{s['pairs']:,}",
        "tests a problem": lambda s: f"{s['tests_per_problem']['mean']:g}",
        "characters, correct, median": lambda s: _median(s, "correct"),
        "characters, incorrect, median": lambda s: _median(s, "incorrect"),
    }
    for title, cell in rows.items():
        table.add_row(title, *(cell(s) for s in stats.values()))
    return table


def _median(stats: SplitStats, label: str) -> str:
    return f"{stats['length'][label]['median']:,.0f}" if stats[label] else "–"


def _plot_labels(axes: Axes, stats: dict[str, SplitStats]) -> None:
    axes.set(title="solutions", xlabel="solutions", xscale="symlog")
    splits = list(stats)
    height = 0.38
    for number, (label, colour) in enumerate(_COLOURS.items()):
        at = np.arange(len(splits)) + (number - 0.5) * height
        counts = [stats[split][label] for split in splits]
        bars = axes.barh(at, counts, height, color=colour, label=label)
        axes.bar_label(bars, [f"{n:,}" for n in counts], padding=3, fontsize="small")
    axes.set_yticks(range(len(splits)), [f"{split}\n{stats[split]['problems']:,} problems" for split in splits])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.legend(fontsize="small")


def _plot_lengths(axes: Axes, stats: dict[str, SplitStats]) -> None:
    """Share of the label's programs in each bin, of the split with the most programs."""
    split = max(stats, key=lambda name: stats[name]["correct"] + stats[name]["incorrect"])
    axes.set(
        title=f"program length, {split}", xlabel="characters", ylabel="share of the label's programs", xscale="log"
    )
    used = np.zeros(len(LENGTH_BINS) - 1, dtype=bool)
    for label, colour in _COLOURS.items():
        histogram = np.asarray(stats[split]["length"][label]["histogram"], dtype=float)
        if histogram.sum():
            axes.stairs(histogram / histogram.sum(), LENGTH_BINS, color=colour, fill=True, alpha=0.35)
            axes.stairs(histogram / histogram.sum(), LENGTH_BINS, color=colour, label=label)
            axes.axvline(stats[split]["length"][label]["median"], color=colour, ls="--", lw=1)
            used |= histogram > 0
    if used.any():
        first, last = np.flatnonzero(used)[[0, -1]]
        axes.set_xlim(LENGTH_BINS[max(first - 1, 0)], LENGTH_BINS[min(last + 2, len(LENGTH_BINS) - 1)])
        axes.legend(fontsize="small", title="dashed: median", title_fontsize="small")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _plot_difficulties(axes: Axes, stats: dict[str, SplitStats]) -> None:
    axes.set(title="difficulty, on the source's scale", xlabel="level", ylabel="problems")
    levels = sorted({int(level) for s in stats.values() for level in s["difficulty"]})
    if levels == [-1]:
        axes.text(0.5, 0.5, "unknown for every problem", transform=axes.transAxes, ha="center", color="gray")
        axes.set(xticks=[], yticks=[])
        return
    below = np.zeros(len(levels))
    for split, s in stats.items():
        counts = np.asarray([s["difficulty"].get(str(level), 0) for level in levels])
        axes.bar(range(len(levels)), counts, bottom=below, label=split)
        below += counts
    axes.set_xticks(range(len(levels)), ["unknown" if level == -1 else str(level) for level in levels])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small")


def _plot_tests(axes: Axes, stats: dict[str, SplitStats]) -> None:
    axes.set(title="tests", xlabel="tests a problem, mean")
    splits = list(stats)
    left = np.zeros(len(splits))
    for visibility, colour in _TEST_COLOURS.items():
        means = np.asarray([s["tests"].get(visibility, 0) / s["problems"] for s in stats.values()])
        if means.any():
            axes.barh(splits, means, left=left, color=colour, label=visibility)
            left += means
    if not left.any():
        axes.text(0.5, 0.5, "no tests", transform=axes.transAxes, ha="center", color="gray")
        axes.set(xticks=[], yticks=[])
        return
    for row, mean in enumerate(left):
        axes.annotate(f" {mean:.1f}", (mean, row), va="center", fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.legend(fontsize="small")
