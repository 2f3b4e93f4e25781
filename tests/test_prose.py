"""The English of docstrings, comments, messages, help texts and documents, as far as a pattern can tell
(CONTRIBUTING.md)."""

import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "weighted_mtp"
UNEDITED = {"LOG.md", "OPTIONS.md"}  # a record of what was written then; generated from docstrings
REFUSED = {
    r"\bnot to be (read|found|imported|opened|loaded)\b": "cannot be read (`not to be` means must not)",
    r"\banew\b": "again; rebuilt, restarted",
    r"\bfor want of\b": "out of, without",
    r"\bis told (of|by|how)\b": "is called with, reports, is decided by",
    r"\bso many(?! )": "this many",
    r"\b(of|with|at most|to|train only) so many\b": "this many, `n`",
    r'^\s*f?"(?:"")?Of (?!course)': "say what it is first: `Seed of …`",
    r'\b(None|nothing|False|"") where (there|it|they|one|none|nobody|no)\b': "if",
    r"\bcommand goes on\b": "resumes",
    r"\b(of use|is of use) (for|with)\b.{0,40}\balone\b": "only useful with",
    r"\b(holds|hold|has|have|knows|know) [\w' ]{1,20} alone\b": "only",
    r"\b(programs|items|steps|samples|tokens|seconds|tests|pairs|solutions|folders?|one|once) an? "
    r"(second|step|epoch|seed|rank|core|problem|process|test|call|program|split|arm)\b": "per",
    r"\bhave their say\b|\bstand for election\b|\bare there no more\b": "say it plainly",
    r"\bmend(s|ed)?\b": "fix",
}


@functools.cache
def prose() -> list[tuple[str, str]]:
    """(file:line, text) of every line of a document, string or comment."""
    return list(_lines())


def _lines() -> Iterator[tuple[str, str]]:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        if page.name not in UNEDITED:
            text = page.read_text().partition("\n## English\n")[0]  # whose table shows the forms
            for number, line in enumerate(text.splitlines(), 1):
                yield f"{page.name}:{number}", line
    for file in SOURCE.rglob("*.py"):
        for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
            if token.type in (tokenize.STRING, tokenize.COMMENT):
                for number, line in enumerate(token.string.splitlines(), token.start[0]):
                    yield f"{file.relative_to(SOURCE)}:{number}", line


@pytest.mark.parametrize("form", REFUSED, ids=list(REFUSED.values()))
def test_no_text_has_a_form_that_readers_stumble_over(form: str) -> None:
    found = [f"{place}: {text.strip()}" for place, text in prose() if re.search(form, text)]
    assert found == [], f"write: {REFUSED[form]}"


def test_the_texts_are_found() -> None:
    assert len(prose()) > 3000
