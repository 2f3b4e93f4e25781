"""Programs whose tokens are coloured by what a critic or a weighting says of them: one HTML page, nothing outside it.

Programs come from models and strangers: their text is shown, never obeyed. It is escaped, invisible and reordering
characters are spelled out, and the page forbids scripts.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weighted_mtp.files import atomic_file

TAB = "    "


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
    """A token's text ("" if a later token completes the character) and its value in each view."""

    text: str
    values: tuple[float, ...]
    semantic: bool = False
    wrong: bool = False


@dataclass(frozen=True)
class ShownProgram:
    """A program's tokens, what it answers, its verdict, and what is known of it in one line each."""

    name: str
    task: str
    is_correct: bool
    tokens: tuple[Token, ...]
    facts: tuple[str, ...] = ()


def visible(text: str) -> str:
    """The text with tabs as spaces, and everything else that has no glyph (NUL, ESC, bidi overrides) spelled out."""
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown) if "\t" not in text else visible(text.replace("\t", TAB))


def write_page(
    path: Path, title: str, notes: Sequence[str], views: Sequence[View], shown: Sequence[ShownProgram]
) -> None:
    """Write the page. `notes` say where the numbers come from."""
    with atomic_file(path) as partial:
        partial.write_text(render_page(title, notes, views, shown), encoding="utf-8")


def render_page(title: str, notes: Sequence[str], views: Sequence[View], shown: Sequence[ShownProgram]) -> str:
    """The page as text; every view is in it, and the buttons above choose without a script."""
    numbers = range(len(views))
    hidden = "".join(f"body:has(#view{n}:checked) .view{n}{{display:block}}" for n in numbers)
    buttons = "".join(
        f'<label><input type="radio" name="view" id="view{n}"{" checked" if n == 0 else ""}> '
        f"{html.escape(view.title)}</label>"
        for n, view in enumerate(views)
    )
    return _PAGE.format(
        title=html.escape(title),
        style=_STYLE + hidden,
        notes="".join(f"<p>{html.escape(note)}</p>" for note in notes),
        buttons=buttons,
        legends="".join(_legend(n, view) for n, view in enumerate(views)),
        programs="".join(_tasks(views, shown)),
    )


def _legend(number: int, view: View) -> str:
    steps = "".join(
        f'<span class="t {"u" if shade >= 0 else "d"}" style="--a:{abs(shade):.2f}">&nbsp;</span>'
        for shade in view.shades(8)
    )
    ends = f"<span>{view.low:.3g}</span>{steps}<span>{view.high:.3g}</span>"
    return (
        f'<div class="view view{number} legend"><div class="bar">{ends}</div>'
        f"<p>{html.escape(view.explanation)} No colour: {view.centre:g}.</p></div>"
    )


def _tasks(views: Sequence[View], shown: Sequence[ShownProgram]) -> list[str]:
    """Programs under the task that they answer, as sections."""
    by_task: dict[str, list[ShownProgram]] = {}
    for program in shown:
        by_task.setdefault(program.task, []).append(program)
    return [
        f'<section><h2>{html.escape(visible(task))}</h2><div class="programs">'
        + "".join(_program(views, program) for program in programs)
        + "</div></section>"
        for task, programs in by_task.items()
    ]


def _program(views: Sequence[View], program: ShownProgram) -> str:
    verdict = "correct" if program.is_correct else "incorrect"
    codes = "".join(
        f'<pre class="view view{n}">{"".join(_token(views, n, token) for token in program.tokens)}</pre>'
        for n in range(len(views))
    )
    facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in program.facts)
    return (
        f'<article><h3><b class="{verdict}">{verdict}</b> {html.escape(visible(program.name))}</h3>'
        f"{codes}<ul>{facts}</ul></article>"
    )


def _token(views: Sequence[View], number: int, token: Token) -> str:
    """Line breaks stay outside the coloured boxes, which would else reach to the margin."""
    shade = views[number].shade(token.values[number])
    kinds = ["t", "u" if shade >= 0 else "d", *(["s"] if token.semantic else []), *(["w"] if token.wrong else [])]
    hover = " · ".join(f"{view.title} {value:.3g}" for view, value in zip(views, token.values, strict=True))
    hover += "".join(f" · {kind}" for kind, is_so in (("semantic", token.semantic), ("wrong", token.wrong)) if is_so)
    box = f'<span class="{" ".join(kinds)}" style="--a:{abs(shade):.2f}" title="{html.escape(hover)}">'
    lines = [html.escape(line) for line in visible(token.text).split("\n")]
    return "\n".join(f"{box}{line}</span>" if line else "" for line in lines)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{notes}
<p><span class="s">semantic</span> tokens decide what the program computes; a <span class="w">wrong</span> one breaks
it (if that is known). Values of a token: hover over it.</p>
</header>
<div class="controls">{buttons}{legends}</div>
<main>{programs}</main>
</body>
</html>
"""

_STYLE = """
:root{--page:#fff;--ink:#1c1e21;--faint:#667;--line:#d8dbe0;--up:224 98 0;--down:44 96 200;--good:#1a7f37;--bad:#c4232b}
@media (prefers-color-scheme:dark){:root{--page:#15171b;--ink:#e8e9eb;--faint:#9aa1ab;--line:#343941;--up:232 120 30;
--down:84 134 245;--good:#4fc46c;--bad:#ff6b6b}}
body{margin:0 auto;max-width:84rem;padding:1.5rem;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.35rem;margin:0 0 .5rem}h2{font-size:1.05rem;margin:2rem 0 .6rem;white-space:pre-wrap}
h3{font-size:.85rem;font-weight:400;margin:0 0 .4rem;color:var(--faint)}
header p,.legend p{margin:.25rem 0;color:var(--faint);max-width:60rem}.legend p{font-size:.85rem}
.controls{position:sticky;top:0;padding:.6rem 0;background:var(--page);border-bottom:1px solid var(--line)}
.controls label{margin-right:1.2rem;cursor:pointer}
.bar{display:flex;align-items:center;gap:0}.bar .t{width:1.1rem}.bar span:first-child{margin-right:.5rem}
.bar span:last-child{margin-left:.5rem}
.programs{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(30rem,100%),1fr));gap:1rem}
article{border:1px solid var(--line);border-radius:8px;padding:.8rem 1rem;min-width:0}
pre{margin:0;overflow-x:auto;padding:.2rem 0 .4rem;font:14px/1.75 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
ul{margin:.4rem 0 0;padding-left:1.1rem;color:var(--faint);font-size:.85rem}ul:empty{display:none}
.correct{color:var(--good)}.incorrect{color:var(--bad)}
.t{border-radius:2px}.u{background:rgb(var(--up)/calc(var(--a)*.75))}.d{background:rgb(var(--down)/calc(var(--a)*.75))}
.s{text-decoration:underline 1.5px;text-underline-offset:4px}
.w{text-decoration:underline wavy 1.5px var(--bad);text-underline-offset:4px}
.view{display:none}
"""
