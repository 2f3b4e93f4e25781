"""What a prepared dataset holds: tables, lines of account, and one picture."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from rich.table import Table

from weighted_mtp.data.preparation.stats import LENGTH_BINS, SplitStats
from weighted_mtp.data.schema import Counts
from weighted_mtp.evaluation.check_labels import Agreement
from weighted_mtp.manifest import Manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T = TypeVar("T")
PICTURE = "stats.png"
EXAMPLES_SHOWN = 3
"""Examples that are printed; files have the others."""
_COLOURS = {"correct": "tab:blue", "incorrect": "tab:orange"}
_TEST_COLOURS = {"public": "tab:green", "private": "tab:olive", "generated": "tab:gray"}
_SPLIT_COLOURS = {"train": "tab:purple", "validation": "tab:pink", "test": "tab:cyan"}
_ORDER = {split: number for number, split in enumerate(_SPLIT_COLOURS)}
_ABOVE: dict[str, Any] = {
    "fontsize": "small", "ncols": 3, "frameon": False, "loc": "lower right", "bbox_to_anchor": (1.0, 0.985),
    "borderaxespad": 0.0,
}  # fmt: skip  # where a legend hides no bar


def _in_order(splits: Mapping[str, T]) -> dict[str, T]:
    """Training, validation and test split, then any other."""
    return dict(sorted(splits.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER))))


def counts_table(splits: dict[str, Counts]) -> Table:
    """Problems and solutions of every split."""
    table = Table("split")
    for column in ("problems", "correct", "incorrect"):
        table.add_column(column, justify="right")
    for split, counts in _in_order(splits).items():
        table.add_row(split, *(f"{n:,}" for n in counts.values()))
    return table


def account(manifest: Manifest) -> Iterator[str]:
    """What was left out of a dataset and why, in lines; overlaps with evaluation sets with the first examples."""
    for reason, n in manifest["dropped"].items():
        yield f"dropped {n:,}: {reason}"
    contamination = manifest.get("contamination", {"checked": []})
    if not contamination["checked"]:
        return
    missing = contamination["not_prepared"]
    unknown = f"; not prepared, so not compared: {', '.join(missing)}" if missing else ""
    yield f"training split compared with {', '.join(contamination['checked'])}{unknown}"
    verb = "kept, though it overlaps" if contamination["kept"] else "dropped, as it overlaps"
    for found in contamination["overlaps"][:EXAMPLES_SHOWN]:
        yield f"{found['problem_id']} {verb} {found['with']} ({found['kind']}): {found['text'][:80]!r}"
    if (more := len(contamination["overlaps"]) - EXAMPLES_SHOWN) > 0:
        yield f"… and {more:,} more, in manifest.json"


def agreement_table(name: str, found: dict[str, Agreement]) -> Table:
    """What execution says of each split's labels."""
    table = Table("split", title=f"{name}: solutions executed", title_justify="left")
    for column in ("correct that pass", "incorrect that fail"):
        table.add_column(column, justify="right")
    table.add_column("not run")
    for split, a in _in_order(found).items():
        not_run = ", ".join(f"{n:,} {reason}" for reason, n in a.not_run.items())
        table.add_row(split, f"{a.passed:,} of {a.correct:,}", f"{a.failed:,} of {a.incorrect:,}", not_run)
    return table


def plot_stats(folder: Path, stats: dict[str, SplitStats]) -> Path:
    """Draw label balance, program lengths by label, difficulties and tests of a dataset; returns `stats.png`."""
    stats = _in_order(stats)
    from matplotlib.figure import Figure  # an extra; tables need none of it

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
    """Counts, label balance, tests and median lengths: one column per split."""
    table, stats = Table(name), _in_order(stats)
    for split in stats:
        table.add_column(split, justify="right")
    rows: dict[str, Callable[[SplitStats], str]] = {
        "problems": lambda s: f"{s['problems']:,}",
        "correct solutions": lambda s: f"{s['correct']:,}",
        "incorrect solutions": lambda s: f"{s['incorrect']:,}",
        "share correct": lambda s: f"{s['correct'] / n:.0%}" if (n := s["correct"] + s["incorrect"]) else "–",
        "problems with both": lambda s: f"{s['with_both_labels']:,}",
        "pairs": lambda s: f"{s['pairs']:,}",
        "tests per problem": lambda s: f"{s['tests_per_problem']['mean']:g}",
        "characters, correct, median": lambda s: _median(s, "correct"),
        "characters, incorrect, median": lambda s: _median(s, "incorrect"),
    }
    for title, cell in rows.items():
        table.add_row(title, *(cell(s) for s in stats.values()))
    return table


def _median(stats: SplitStats, label: str) -> str:
    return f"{stats['length'][label]['median']:,.0f}" if stats[label] else "–"


def _plot_labels(axes: "Axes", stats: dict[str, SplitStats]) -> None:
    axes.set_title("solutions", loc="left")
    axes.set(xlabel="solutions")
    labels = [label for label in _COLOURS if any(s[label] for s in stats.values())]
    height = 0.8 / max(len(labels), 1)
    for number, label in enumerate(labels):
        at = np.arange(len(stats)) + (number - (len(labels) - 1) / 2) * height
        counts = [s[label] for s in stats.values()]
        bars = axes.barh(at, counts, height, color=_COLOURS[label], label=label)
        axes.bar_label(bars, [f"{n:,}" for n in counts], padding=3, fontsize="small")
    axes.set_yticks(range(len(stats)), [f"{split}\n{s['problems']:,} problems" for split, s in stats.items()])
    axes.set_ylim(len(stats) - 0.5, -0.5)
    axes.margins(x=0.15)
    if labels:
        axes.legend(**_ABOVE)


def _plot_lengths(axes: "Axes", stats: dict[str, SplitStats]) -> None:
    """Share of the label's programs in each bin, of the split with the most programs."""
    split = max(stats, key=lambda name: stats[name]["correct"] + stats[name]["incorrect"])
    axes.set_title(f"program length, {split}", loc="left")
    axes.set(
        xlabel="characters (dashed: median)",
        ylabel="share of the label's programs",
        xscale="log",
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
        axes.legend(**_ABOVE)
    from matplotlib.ticker import LogLocator, ScalarFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _plot_difficulties(axes: "Axes", stats: dict[str, SplitStats]) -> None:
    axes.set_title("difficulty", loc="left")
    axes.set(xlabel="level, on the source's scale", ylabel="problems")
    levels = sorted({int(level) for s in stats.values() for level in s["difficulty"]})
    if levels == [-1]:
        axes.text(0.5, 0.5, "unknown for every problem", transform=axes.transAxes, ha="center", color="gray")
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
        return
    below = np.zeros(len(levels))
    for split, s in stats.items():
        counts = np.asarray([s["difficulty"].get(str(level), 0) for level in levels])
        axes.bar(range(len(levels)), counts, bottom=below, label=split, color=_SPLIT_COLOURS.get(split))
        below += counts
    axes.set_xticks(range(len(levels)), ["unknown" if level == -1 else str(level) for level in levels])
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(**_ABOVE)


def _plot_tests(axes: "Axes", stats: dict[str, SplitStats]) -> None:
    axes.set_title("tests", loc="left")
    axes.set(xlabel="tests per problem, mean")
    splits = list(stats)
    left = np.zeros(len(splits))
    for visibility, colour in _TEST_COLOURS.items():
        means = np.asarray([s["tests"].get(visibility, 0) / s["problems"] for s in stats.values()])
        if means.any():
            axes.barh(splits, means, left=left, color=colour, label=visibility)
            left += means
    if not left.any():
        axes.text(0.5, 0.5, "no tests", transform=axes.transAxes, ha="center", color="gray")
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
        return
    for row, mean in enumerate(left):
        axes.annotate(f" {mean:.1f}", (mean, row), va="center", fontsize="small")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * left.max())
    axes.legend(**_ABOVE)
