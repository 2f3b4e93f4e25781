"""Docstrings of this package, as Markdown: a legend of aligned names becomes a list.

critic     a critic's run                →   - `critic`: a critic's run
input_ids  (B, T) int                    →   - `input_ids`: (B, T) int
"""

import re

import griffe

_ROW = re.compile(r"(?P<name>\S+(?:, \S+)*) {2,}(?P<text>\S.*)")


def listed(text: str) -> str:
    """`text` with every paragraph that is a legend turned into a list."""
    return "\n\n".join(_paragraph(part) for part in text.split("\n\n"))


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if not _ROW.fullmatch(lines[0]) or not all(_ROW.fullmatch(line) or line.startswith("    ") for line in lines):
        return text
    rows: list[str] = []
    for line in lines:
        if row := _ROW.fullmatch(line):
            rows.append(f"- `{row['name']}`: {row['text']}")
        else:
            rows[-1] += f" {line.strip()}"
    return "\n".join(rows)


class Legends(griffe.Extension):
    """Changes each docstring as it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = listed(obj.docstring.value)
