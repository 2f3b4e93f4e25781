"""Programs whose tokens are coloured by what a critic or a weighting says of them: a page, or a part of a run's.

Every token has its value in every view, so the page changes colours by a style and without a script; the script reads a
token's values out, for those who have no mouse or see no colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from weighted_mtp.report.page import visible, write_html


@dataclass(frozen=True)
class View:
    """A number that every token has, and its scale of colours.

    low, centre, high  values that are coloured most strongly, not at all, and most strongly the other way
    """

    title: str
    explanation: str
    low: float
    centre: float
    high: float

    def shade(self, value: float) -> float:
        """Where a value lies between low (−1), centre (0) and high (1); each side has a scale of its own."""
        side = self.high - self.centre if value >= self.centre else self.centre - self.low
        return max(-1.0, min(1.0, (value - self.centre) / side)) if side > 0 else 0.0

    def shades(self, steps: int) -> list[float]:
        """The shades from low to high, `steps` on each side that has any values."""
        below = steps if self.low < self.centre else 0
        above = steps if self.high > self.centre else 0
        return [step / steps for step in range(-below, above + 1)]


@dataclass(frozen=True)
class Token:
    """A token's text ("" if a later token completes the character) and its value in each view.

    differs  whether it is the first in which a program differs from its twin
    """

    text: str
    values: tuple[float, ...]
    semantic: bool = False
    wrong: bool = False
    differs: bool = False


@dataclass(frozen=True)
class ShownProgram:
    """A program's tokens, what it answers, its verdict, and what is known of it in one line each."""

    name: str
    task: str
    is_correct: bool
    tokens: tuple[Token, ...]
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShownPrograms:
    """Programs with the views that their tokens have, and notes on where the numbers come from."""

    notes: Sequence[str]
    views: Sequence[View]
    programs: Sequence[ShownProgram]


def write_token_page(path: Path, title: str, shown: ShownPrograms) -> None:
    """Write a page of nothing but these programs."""
    values = {"title": title, "kind": "token weights", "shown": section(shown)}
    write_html(path, "weights.html", values, "tokens.js")


def section(shown: ShownPrograms) -> dict[str, Any]:
    """What `templates/tokens.html` shows: programs under the task that they answer, twins beside each other."""
    tasks: dict[str, list[dict[str, Any]]] = {}
    for program in shown.programs:
        code = Markup("").join(_token(shown.views, token) for token in program.tokens)
        about = {"name": program.name, "is_correct": program.is_correct, "code": code, "facts": program.facts}
        tasks.setdefault(program.task, []).append(about)
    # Which view is chosen is the state of a radio button; it names the variable that colours every token.
    chosen = "".join(
        f"body:has(#view{n}:checked) .t{{--a:var(--v{n},0)}}body:not(:has(#view{n}:checked)) .legend{n}{{display:none}}"
        for n in range(len(shown.views))
    )
    return {
        "notes": shown.notes,
        "views": [{"title": v.title, "legend": _legend(v), "explanation": v.explanation} for v in shown.views],
        "chosen": Markup(chosen),
        "tasks": tasks,
    }


def _legend(view: View) -> Markup:
    steps = (
        Markup('<span class="t" style="--a:{:.2f}">&nbsp;</span>').format(shade)  # of its own, whichever view is chosen
        for shade in view.shades(8)
    )
    return Markup("<span>{:.3g}</span>{}<span>{:.3g}</span> no colour: {:.3g}").format(
        view.low, Markup("").join(steps), view.high, view.centre
    )


def _token(views: Sequence[View], token: Token) -> Markup:
    """Line breaks stay outside the coloured boxes, which would else reach to the margin."""
    marks = {"semantic": token.semantic, "wrong": token.wrong, "first difference": token.differs}
    kinds = "t" + "".join(f" {mark[0]}" for mark, is_so in marks.items() if is_so)
    said = " · ".join(f"{view.title} {value:.3g}" for view, value in zip(views, token.values, strict=True))
    said += "".join(f" · {mark}" for mark, is_so in marks.items() if is_so)
    shades = (view.shade(value) for view, value in zip(views, token.values, strict=True))
    style = ";".join(f"--v{n}:{shade:.2g}" for n, shade in enumerate(shades) if abs(shade) >= 0.005)
    box = Markup('<span class="{}" style="{}" title="{}">').format(kinds, style, visible(said))
    lines = visible(token.text).split("\n")
    return Markup("\n").join(Markup("{}{}</span>").format(box, line) if line else Markup("") for line in lines)
