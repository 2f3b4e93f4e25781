"""A comparison to read: tables for the terminal and in Markdown, what was found in words, and a figure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from weighted_mtp.evaluation.pass_at_k import Estimate
from weighted_mtp.files import atomic_file
from weighted_mtp.report.comparison import ONE_SEED, ArmResult, Comparison
from weighted_mtp.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def comparison_table(comparison: Comparison) -> Group:
    """The comparison for a terminal: pass@k with differences, and which problems are solved by which arm."""
    shown = []
    for title, header, rows in tables(comparison):
        shown.append(Table(title=title, title_justify="left"))
        for number, column in enumerate(header):
            justify: Literal["left", "right"] = "right" if number else "left"
            shown[-1].add_column(column, justify=justify, overflow="fold", no_wrap=bool(number))
        for row in rows:
            shown[-1].add_row(*map(escape, row))
    return Group(*shown)


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown tables with its notes."""
    lines = []
    for title, header, rows in tables(comparison):
        lines += [title, "", "| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
        lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in comparison.notes)]) + "\n"


def tables(comparison: Comparison) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, header and rows of each table."""
    interval = f"[{100 * comparison.confidence:g} %]"
    best = comparison.best
    header = ("arm", f"pass@{comparison.k} {interval}", f"difference {interval}", *(("temperature",) if best else ()))
    tests = ", base tests only" if comparison.base else ""
    title = f"pass@{comparison.k} on {counted(comparison.problems, 'problem')}{tests}"
    rows: list[tuple[str, ...]]
    rows = [(_name(arm), _interval(arm.value, ""), _interval(arm.difference, "+")) for arm in comparison.arms]
    if best:
        chosen = (" or ".join(f"{temperature:g}" for temperature in sorted(best[arm.name])) for arm in comparison.arms)
        rows = [(*row, temperatures) for row, temperatures in zip(rows, chosen, strict=True)]
    yield title, header, rows
    most = max(arm.seeds for arm in comparison.arms)
    if most > 1:
        numbers = tuple(str(number) for number in range(1, most + 1))
        by_seed = [(arm.name, *(f"{value:.3f}" for value in arm.by_seed)) for arm in comparison.arms]
        title = f"pass@{comparison.k} of each evaluation, in the order given"
        yield title, ("arm", *numbers), [(*row, *[""] * (most + 1 - len(row))) for row in by_seed]
    solved = [(_name(arm), *map(_number, astuple(arm.solved))) for arm in comparison.arms if arm.solved is not None]
    if comparison.further:
        yield (
            "further differences",
            ("arm", "to", f"difference {interval}"),
            [(own.name, own.other, _interval(own.difference, "+")) for own in comparison.further],
        )
    yield "problems solved at the first try, by", ("arm", "both", "only it", "only the baseline", "neither"), solved


_FEW = 3


def finding(comparison: Comparison) -> str:
    """What was found, in words: which arms are above the baseline and which below, and which differ too little to tell.

    An arm is above another if the whole interval of their difference is.
    """
    baseline, *others = comparison.arms
    seeds = min(arm.seeds for arm in comparison.arms)
    sentences = [_told({arm.name: arm.difference for arm in others if arm.difference}, baseline.name)]
    sentences += [_told({own.name: own.difference}, own.other) for own in comparison.further]
    over = ONE_SEED if seeds == 1 else f"Over {seeds} seeds."
    return " ".join([f"pass@{comparison.k}:", *sentences, over])


def _told(differences: Mapping[str, Estimate], other: str) -> str:
    """`a (+0.2 [+0.1, +0.3]) is above uniform; b (…) and c (…) are not distinguishable from it.`

    Of more than a few that are not, only the names: the table has the figures.
    """
    places = {1: "above", -1: "below", 0: "not distinguishable from"}
    groups: dict[str, list[str]] = {where: [] for where in places.values()}
    for name, own in differences.items():
        groups[places[own.sign]].append(name)
    parts: list[str] = []
    for where, names in groups.items():
        if names:
            verb = "is" if len(names) == 1 else "are"
            bare = where == places[0] and len(names) > _FEW
            said = names if bare else [f"{name} ({_interval(differences[name], '+')})" for name in names]
            parts.append(f"{_and(said)} {verb} {where} {'it' if parts else other}")
    return "; ".join(parts) + "."


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plot_comparisons(comparisons: Mapping[str, Comparison], output: Path) -> Path:
    """Draw each comparison's differences to its baseline: one dot per seed if seeds are paired, mean and interval.

    comparisons  title of a panel → comparison, all with the same arms
    """
    from matplotlib.figure import Figure  # an extra; tables need none of it

    arms = next(iter(comparisons.values())).arms
    size = (1.2 + 3.4 * len(comparisons), 1.2 + 0.45 * len(arms))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(comparisons), sharey=True, squeeze=False)[0]
    for axes, (title, comparison) in zip(panels, comparisons.items(), strict=True):
        _draw_differences(axes, title, comparison)
    with atomic_file(output) as partial:
        figure.savefig(partial, format=output.suffix[1:] or "png", dpi=120)
    return output


def seed_differences(arm: ArmResult, baseline: ArmResult) -> tuple[float, ...]:
    """The arm's pass@k above the baseline's, seed by seed; empty if seeds are not paired, or there is one."""
    if not arm.paired or arm.seeds == 1:
        return ()
    return tuple(mine - theirs for mine, theirs in zip(arm.by_seed, baseline.by_seed, strict=True))


def _draw_differences(axes: "Axes", title: str, comparison: Comparison) -> None:
    baseline, *others = comparison.arms
    axes.axvline(0, color="0.5", lw=1, ls="--")
    for row, arm in enumerate(others):
        if arm.difference is None:
            continue
        own = arm.difference
        axes.plot([own.low, own.high], [row, row], color="C0", lw=2.5, solid_capstyle="butt", alpha=0.6)
        axes.plot(own.value, row, "|", color="C0", ms=14, mew=2.5)
        if dots := seed_differences(arm, baseline):
            axes.plot(dots, [row] * len(dots), "o", color="C1", ms=4, zorder=3)
    axes.set_yticks(range(len(others)), [arm.name for arm in others])
    axes.set_ylim(len(others) - 0.5, -0.5)
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(f"pass@{comparison.k} above {baseline.name} ({baseline.value.value:.3f})")
    axes.grid(axis="x", alpha=0.3)


def _name(arm: ArmResult) -> str:
    return arm.name if arm.seeds == 1 else f"{arm.name} ({arm.seeds} seeds)"


def _interval(estimate: Estimate | None, sign: str) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _number(value: float) -> str:
    """A count, or an expected value of one."""
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-9 else f"{value:,.1f}"
