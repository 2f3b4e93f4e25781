"""GSM8K's answers are texts: the number that one ends with, and whether it is the right one."""

import re
from decimal import Decimal

from weighted_mtp.evaluation.jobs import Outcome

_NUMBER = re.compile(r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", re.ASCII)
_LONGEST = 100  # characters of a number that anybody means

_MARKED = re.compile(r"####(?=\s*([^\n]*))")
_BOXED = re.compile(r"\\f?boxed\s*\{")
_LONGEST_BOX, _MOST_BOXES = 1000, 100  # characters of one, and how many are looked at
_HEADING = re.compile(r"\s*(\d+)[.):]\s+[^\W\d]", re.ASCII)  # "1. Add them"
_SUM = re.compile(rf"{_NUMBER.pattern}\s*(?:[-+*/×÷x]|\\(?:times|div|cdot))\s*[\d$(].*=", re.ASCII)
_BEFORE = re.compile(r"(?:[^\d:]*\banswer\b[^\d:]*:?)?[\s*_`\\(\[{]*", re.ASCII | re.IGNORECASE)

# What LaTeX writes where others write the comma of 70,000 — {,} \, \! \; \: "\ " ,\! — and spaces that do not break.
_THOUSANDS = re.compile(
    r"(?<=\d)(?:\{,\}|\\text\{,\}|,?\{?\\{1,2}[,!;: ]\}?|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))", re.ASCII
)
_UNICODE_MINUS = "\u2212"


def final_number(text: str) -> Decimal | None:
    """The number that a worked answer ends with: the one after the first "####", else the one in the last \\boxed{},
    else the last one in the text. None if there is no number.

    It is read without commas, LaTeX's separators and dollar sign, and no full stop belongs to it.

    Source: "####" as in GSM8K's own grader (Cobbe et al. 2021, arXiv 2110.14168; grade_school_math/dataset.py), the
    last number where that is missing as lm-evaluation-harness' `flexible-extract`. Departures: numbers are compared,
    not their digits, so 5.00 is 5; numbered headings are none ("#### 1. Add them"); "#### 9 * 2 = 18" ends with 18.
    """
    text = _THOUSANDS.sub(",", text.replace(_UNICODE_MINUS, "-").replace("\\$", "$"))
    found = _marked(text) or _boxed(text) or next(iter(_NUMBER.findall(text)[-1:]), None)
    if found is None or len(found) > _LONGEST:
        return None
    return Decimal(found.replace("$", "").replace(",", ""))


def graded(text: str, expected: str) -> Outcome:
    """The verdict on a worked answer whose right number is `expected`."""
    found = final_number(text)
    if found == Decimal(expected):
        return Outcome("passed")
    answer = "no number" if found is None else f"{found:f}"
    return Outcome("failed", f"answered {answer}, expected {expected}", test=1)


def _marked(text: str) -> str | None:
    """The number with which the first line after "####" begins, of those that are no headings numbered from 1."""
    heading = 1
    for line in _MARKED.findall(text):
        if (found := _HEADING.match(line)) and found[1] == str(heading):
            heading += 1
        elif number := _NUMBER.match(line, _BEFORE.match(line).end()):  # type: ignore[union-attr] # may be empty
            return _last_of_sum(line[number.start() :])
    return None


def _boxed(text: str) -> str | None:
    """The first number in the last box that has one."""
    for box in reversed(list(_BOXED.finditer(text))[-_MOST_BOXES:]):
        inside = text[box.end() : _closing_brace(text, box.end())]
        if _NUMBER.search(inside):
            return _last_of_sum(inside.rpartition("=")[2] if _NUMBER.search(inside.rpartition("=")[2]) else inside)
    return None


def _last_of_sum(text: str) -> str:
    """The first number of a text, or what "9 * 2 = 18" comes to."""
    result = text.rpartition("=")[2] if _SUM.match(text) else text
    return (_NUMBER.search(result) or _NUMBER.search(text))[0]  # type: ignore[index] # there is one


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for place in range(start, min(len(text), start + _LONGEST_BOX)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return start
