"""Figures as inline SVG: intervals with a dot per seed, curves, and predictions against what happened.

They take their colours from the page's style, so that one figure serves light, dark and print; shapes and dashes tell
apart what colours do. A width of 480 units keeps the letters readable on a phone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10, sqrt

from markupsafe import Markup

from weighted_mtp.evaluation.pass_at_k import Estimate
from weighted_mtp.report.page import visible

WIDTH, MARGIN = 480, 12
_ROW = 36  # height of an interval with its label above it
_LEFT, _BOTTOM = 56, 190  # of what curves are drawn in
_COLOURS = 6
MOST_LINES = 2 * _COLOURS
"""Curves that one figure can tell apart: each colour solid and dashed."""


@dataclass(frozen=True)
class Interval:
    """A line of a figure: an estimate, and what it is the mean of (one value per seed)."""

    label: str
    estimate: Estimate
    dots: tuple[float, ...] = ()


def intervals(rows: Sequence[Interval], low: float | None = None, high: float | None = None) -> Markup:
    """Intervals below each other on one axis.

    low, high  ends of the axis; None is as far as intervals and dots reach, and 0 in any case
    """
    values = [0.0, *(v for row in rows for v in (row.estimate.low, row.estimate.high, *row.dots))]
    low, high = min(values) if low is None else low, max(values) if high is None else high
    axis = _Axis(low, high if high > low else low + 1, MARGIN + 8, WIDTH - MARGIN - 8)
    bottom = MARGIN + _ROW * len(rows)
    parts = [_line("grid", axis.at(t), MARGIN, axis.at(t), bottom) for t in axis.ticks]
    parts += [_text("tick", axis.at(t), bottom + 16, f"{t:g}") for t in axis.ticks]
    parts.append(_line("zero", axis.at(0), MARGIN, axis.at(0), bottom))
    for number, row in enumerate(rows):
        parts += _interval(row, axis, MARGIN + _ROW * number)
    return _svg(bottom + 24, parts, "; ".join(f"{row.label}: {in_words(row.estimate)}" for row in rows))


def in_words(estimate: Estimate) -> str:
    """`0.203 [0.162, 0.245]`."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _interval(row: Interval, axis: "_Axis", top: int) -> list[Markup]:
    own, y = row.estimate, top + 25
    return [
        _text("label", MARGIN, top + 13, row.label),
        _line("interval", axis.at(own.low), y, axis.at(own.high), y),
        _line("mean", axis.at(own.value), y - 7, axis.at(own.value), y + 7),
        *(_circle(axis.at(dot), y, 3.5, "dot") for dot in row.dots),
    ]


def curves(
    lines: Mapping[str, Mapping[int, float]], dashed: frozenset[str] = frozenset(), level: float | None = None
) -> Markup:
    """Curves over steps on the same axes, each name → step → value.

    dashed  names that are drawn dashed
    level   a value to compare with, such as that of chance

    Names that differ only after " · " share a colour; what stands before it is written below the figure, if there are
    several.
    """
    points = [(x, y) for line in lines.values() for x, y in line.items()]
    values = [*(y for _, y in points), *([level] if level is not None else [])]
    low, high = min(values), max(values)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    across = _Axis(min(x for x, _ in points), max(x for x, _ in points), _LEFT, WIDTH - MARGIN)
    up = _Axis(low - pad, high + pad, _BOTTOM, MARGIN)
    parts = _frame(across, up)
    if level is not None:
        parts.append(_line("zero", _LEFT, up.at(level), WIDTH - MARGIN, up.at(level)))
    colours = list(dict.fromkeys(name.partition(" · ")[0] for name in lines))
    for name, line in lines.items():
        kind = f"curve c{colours.index(name.partition(' · ')[0]) % _COLOURS}" + (" dashed" if name in dashed else "")
        parts.append(_polyline(kind, across, up, line))
        if len(line) == 1:
            parts += [_circle(across.at(x), up.at(y), 3, kind) for x, y in line.items()]
    keys = [(f"curve c{n % _COLOURS}" + (" dashed" if name in dashed else ""), name) for n, name in enumerate(colours)]
    ends = (f"{name}: from {line[min(line)]:.4g} to {line[max(line)]:.4g}" for name, line in lines.items())
    return _with_keys(parts, keys if len(keys) > 1 else [], "; ".join(ends))


@dataclass(frozen=True)
class Bin:
    """Predictions that are about the same: their mean, the share that came true, and their share of all."""

    predicted: float
    happened: float
    share: float


def reliability_diagram(lines: Mapping[str, Sequence[Bin]], low: float = 0.0) -> Markup:
    """Predicted probabilities against what happened, each name → bins; on the diagonal they agree.

    A circle's area is its share of the predictions. `low` is where the axes begin.
    """
    across, up = _Axis(low, 1.0, _LEFT, WIDTH - MARGIN), _Axis(0.0, 1.0, _BOTTOM, MARGIN)
    parts = [*_frame(across, up), _line("zero", across.at(low), up.at(low), across.at(1), up.at(1))]
    keys = [(f"curve c{number % _COLOURS}", name) for number, name in enumerate(lines)]
    for (kind, _), bins in zip(keys, lines.values(), strict=True):
        parts.append(_polyline(kind, across, up, {b.predicted: b.happened for b in bins}))
        parts += [_circle(across.at(b.predicted), up.at(b.happened), 2 + 10 * sqrt(b.share), kind) for b in bins]
    said = (", ".join(f"{b.predicted:.2f} became {b.happened:.2f}" for b in bins) for bins in lines.values())
    return _with_keys(parts, keys, "; ".join(f"{name}: {text}" for name, text in zip(lines, said, strict=True)))


class _Axis:
    """Values from low to high on pixels from start to end, with round ticks."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.span = low, (high - low) or 1.0
        self.start, self.end = start, end
        self.ticks = _ticks(low, low + self.span)

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / self.span * (self.end - self.start)


def _ticks(low: float, high: float) -> list[float]:
    """At most six multiples of 1, 2 or 5 times a power of ten between low and high."""
    power = 10.0 ** floor(log10((high - low) / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= 5)
    numbers = range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)
    return [float(f"{number * step:.10g}") for number in numbers]


def _frame(across: _Axis, up: _Axis) -> list[Markup]:
    parts = [_line("grid", _LEFT, up.at(t), WIDTH - MARGIN, up.at(t)) for t in up.ticks]
    parts += [_text("tick left", _LEFT - 6, up.at(t) + 4, f"{t:g}") for t in up.ticks]
    return parts + [_text("tick", across.at(t), _BOTTOM + 18, f"{t:g}") for t in across.ticks]


def _with_keys(parts: Sequence[Markup], keys: Sequence[tuple[str, str]], described_as: str) -> Markup:
    """The figure with the names of its lines, each given as (how it is drawn, name), below it in two columns."""
    names = []
    for number, (kind, name) in enumerate(keys):
        x, y = MARGIN + (number % 2) * WIDTH // 2, _BOTTOM + 40 + number // 2 * 18
        names += [_line(kind, x, y - 4, x + 24, y - 4), _text("label", x + 30, y, name)]
    return _svg(_BOTTOM + 24 + 18 * ceil(len(keys) / 2), [*parts, *names], described_as)


def _polyline(kind: str, across: _Axis, up: _Axis, line: Mapping[int, float] | Mapping[float, float]) -> Markup:
    path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in sorted(line.items()))
    return Markup('<polyline class="{}" points="{}"/>').format(kind, path)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _circle(x: float, y: float, radius: float, kind: str) -> Markup:
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(kind, x, y, radius)


def _text(kind: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, visible(text))


def _svg(height: float, parts: Sequence[Markup], described_as: str) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, visible(described_as), Markup("").join(parts)
    )
