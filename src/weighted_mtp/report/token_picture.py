"""Token weights as a picture, for those who look at files: each program once a view, side by side.

The page shows one view at a time and needs a browser; rich exports only SVG, without underlines in colour.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from weighted_mtp.files import atomic_file
from weighted_mtp.report.page import visible
from weighted_mtp.report.token_page import ShownProgram, Token, View

COLUMNS = 72
"""Characters of a line; longer ones are broken."""
LINES = 40
"""Lines of a program; what follows is left out."""
_MARGIN, _GAP = 2, 4  # characters around the picture and between views
_FONT, _SIZE = "DejaVu Sans Mono", 9.0
_WIDTH, _HEIGHT = 0.602 * _SIZE / 72, 1.6 * _SIZE / 72  # of a character and a line, inches
_COLOURS = LinearSegmentedColormap.from_list("weights", ["#6f97ea", "#ffffff", "#f0934a"])
_UNDERLINED = "Underlined: tokens that decide what the program computes; red: what makes it wrong."
_GOOD, _BAD, _FAINT = "#1a7f37", "#c4232b", "#666677"


@dataclass(frozen=True)
class TextRun:
    """A part of a token's text within one line, and where it stands."""

    line: int
    column: int
    text: str
    token: Token


def laid_out(tokens: Sequence[Token], columns: int = COLUMNS, lines: int = LINES) -> list[TextRun]:
    """Tokens on a grid of characters; lines are broken at `columns`, and at most `lines` of them are kept."""
    pieces, line, column = [], 0, 0
    for token in tokens:
        for number, text in enumerate(visible(token.text).split("\n")):
            if number:
                line, column = line + 1, 0
            while text:
                if column == columns:
                    line, column = line + 1, 0
                part, text = text[: columns - column], text[columns - column :]
                pieces.append(TextRun(line, column, part, token))
                column += len(part)
    return [piece for piece in pieces if piece.line < lines]


def draw_programs(path: Path, views: Sequence[View], shown: Sequence[ShownProgram]) -> None:
    """Draw the programs to a PNG file, a row each, and a column for each view."""
    layouts = [laid_out(program.tokens) for program in shown]
    widest = max([40, *(piece.column + len(piece.text) for layout in layouts for piece in layout)])
    captions = [textwrap.wrap(visible(program.task), len(views) * (widest + _GAP) - _GAP) for program in shown]
    heights = [
        len(caption) + 3 + max([0, *(piece.line for piece in layout)]) + len(program.facts) + 1.5
        for caption, layout, program in zip(captions, layouts, shown, strict=True)
    ]
    width, height = 2 * _MARGIN + len(views) * (widest + _GAP) - _GAP, 5 + sum(heights)
    figure = Figure(figsize=(width * _WIDTH, height * _HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-_MARGIN, width - _MARGIN), ylim=(height, 0))
    axes.set_axis_off()
    for number, view in enumerate(views):
        _draw_legend(axes, view, number * (widest + _GAP), widest)
    top = 4.0
    for program, layout, caption, below in zip(shown, layouts, captions, heights, strict=True):
        _draw_head(axes, program, caption, top)
        for number, view in enumerate(views):
            _draw_code(axes, layout, view, number, (number * (widest + _GAP), top + len(caption) + 1.5))
        for number, fact in enumerate(program.facts):
            _write(axes, 0, top + below - 1 - len(program.facts) + number, fact, color=_FAINT)
        top += below
    _write(axes, 0, top + 0.2, _UNDERLINED, color=_FAINT)
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)


def _draw_legend(axes: Axes, view: View, left: float, widest: int) -> None:
    _write(axes, left, 1, view.title, weight="bold")
    at = left + len(view.title) + 2
    _write(axes, at, 1, low := f"{view.low:.3g}", color=_FAINT)
    at += len(low) + 1
    shades = view.shades(6)
    for step, shade in enumerate(shades):
        axes.add_patch(Rectangle((at + step, 0.6), 1, 0.8, color=_COLOURS((shade + 1) / 2), lw=0))
    axes.add_patch(Rectangle((at, 0.6), len(shades), 0.8, fill=False, ec="#cccccc", lw=0.5))
    _write(axes, at + len(shades) + 1, 1, f"{view.high:.3g}", color=_FAINT)
    for number, line in enumerate(textwrap.wrap(view.explanation, widest)[:2]):
        _write(axes, left, 2 + number, line, color=_FAINT)


def _draw_head(axes: Axes, program: ShownProgram, caption: Sequence[str], top: float) -> None:
    for number, line in enumerate(caption):
        _write(axes, 0, top + 0.5 + number, line)
    verdict, colour = ("correct", _GOOD) if program.is_correct else ("incorrect", _BAD)
    _write(axes, 0, top + len(caption) + 0.5, verdict, color=colour, weight="bold")
    _write(axes, len(verdict) + 1, top + len(caption) + 0.5, visible(program.name), color=_FAINT)


def _draw_code(axes: Axes, layout: Sequence[TextRun], view: View, number: int, corner: tuple[float, float]) -> None:
    left, top = corner
    for piece in layout:
        x, y = left + piece.column, top + piece.line
        colour = _COLOURS((view.shade(piece.token.values[number]) + 1) / 2)
        axes.add_patch(Rectangle((x, y + 0.04), len(piece.text), 0.92, color=colour, lw=0))
        if piece.token.wrong or piece.token.semantic:
            line, thick = (_BAD, 2.0) if piece.token.wrong else ("#333333", 0.8)
            axes.plot([x, x + len(piece.text)], [y + 0.9, y + 0.9], color=line, lw=thick, solid_capstyle="butt")
        _write(axes, x, y + 0.5, piece.text)


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Text with its left edge at a character's column. `$` is a character of programs, not the start of a formula."""
    drawable = "".join(c if ord(c) in _glyphs() else "\N{REPLACEMENT CHARACTER}" for c in text)
    axes.text(x, y, drawable, family=_FONT, size=_SIZE, va="center_baseline", parse_math=False, **style)


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(_FONT)).get_charmap())
