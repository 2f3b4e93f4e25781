"""GSM8K's answers are texts: the number that one ends with, and whether it is the right one."""

import re
from decimal import Decimal

from weighted_mtp.sandbox.job import Outcome

_NUMBER = re.compile(r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", re.ASCII)
_LONGEST = 100  # characters of a number that anybody means

_MARKED = re.compile(r"####(?=\s*([^\n]*))")
_BOXED = re.compile(r"\\f?boxed\s*\{")
_PARTS = ("over", "over1", "over2", "under", "under1", "under2")
_LONGEST_BOX, _MOST_BOXES = 1000, 100  # characters of one, and how many are looked at
_HEADING = re.compile(r"\s*(\d+)[.):]\s+[^\W\d]", re.ASCII)  # "1. Add them"
_NUMBERED_QUANTITY = re.compile(rf"\s*1[.):]\s+({_NUMBER.pattern})(?:\s+[^\W\d]+)?[.\s]*$", re.ASCII)  # "1. 5 apples"
_SUM = re.compile(rf"{_NUMBER.pattern}\s*(?:[-+*/×÷x]|\\(?:times|div|cdot))\s*[\d$(].*=", re.ASCII)
_BEFORE = re.compile(r"(?:[^\d:]*\banswer\b[^\d:]*:?)?[\s*_`\\(\[{]*", re.ASCII | re.IGNORECASE)

# What stands where others write the comma of 70,000: LaTeX's {,} \, \! \; \: "\ " ,\! ~ and \thinspace, spaces that do
# not break, apostrophes, an underscore, the full-width comma.
_THOUSANDS = re.compile(
    r"(?<=\d)(?:\{,\}|\\text\{,\}|,?\{?\\{1,2}[,!;: ]\}?|\{?\\(?:thin|med|thick)space(?![a-zA-Z])(?:\{\})?\s*\}?"
    r"|[~'’_，\u00a0\u2007\u2009\u202f])(?=\d{3}(?!\d))",
    re.ASCII,
)
_MINUS = re.compile(r"[\u2212\uff0d\ufe63]|(?<!\w)(?<!\d\s)–(?=\\?\$?\.?[\d０-９])")
_FULL_WIDTH = str.maketrans("０１２３４５６７８９．＄", "0123456789.$")
_SPACED_MINUS = re.compile(r"(^|=)([\s$]*-)(?:\s|~|\\[ ,;:!])+(?=\$?\.?\d)")
_FRACTION = re.compile(
    r"[\s$]*(?:\\(?:text|math)\w*\s*\{)?(?P<minus>-?)\s*(?P<whole>\d[\d,]*)?\s*"
    r"(?:\\[dtc]?frac\s*(?:\{(?P<over>[^{}]*)\}|(?P<over1>\d))\s*"
    r"(?:\{(?P<under>[^{}]*)\}|(?P<under1>\d))|(?<!\d)(?P<over2>\d[\d,]*)\s*/\s*(?P<under2>\d[\d,]*))"
    r"(?:[^\d+*/\\-]|\\[%$ ,;!])*"
    r"(?:\\(?:text|textrm|mathrm)\s*\{[^\d{}]*\}[^\d]*)?$",
    re.ASCII,
)


def final_number(text: str) -> Decimal | None:
    """The number that a worked answer ends with: the one after the first "####", else the one in the last \\boxed{},
    else the last one in the text. None if there is no number.

    It is read without the separators of its thousands and its dollar sign, and no full stop belongs to it. A fraction
    in a box is its value, and no number if its parts are no numbers.

    Source: "####" as in GSM8K's own grader (Cobbe et al. 2021, arXiv 2110.14168; grade_school_math/dataset.py), the
    last number if that is missing, as lm-evaluation-harness' `flexible-extract`. Departures: numbers are compared,
    not their digits, so 5.00 is 5; numbered headings are none ("#### 1. Add them"); "#### 9 * 2 = 18" ends with 18.
    """
    text = _MINUS.sub("-", text.translate(_FULL_WIDTH).replace("\\$", "$"))
    text = _THOUSANDS.sub(",", text)
    return _value(_marked(text) or _boxed(text) or next(iter(_NUMBER.findall(text)[-1:]), ""))


def graded(text: str, expected: str) -> Outcome:
    """The verdict on a worked answer whose right number is `expected`."""
    found = final_number(text)
    if found == Decimal(expected):
        return Outcome("passed")
    answer = "no number" if found is None else f"{found:f}"
    return Outcome("failed", f"answered {answer}, expected {expected}", test=1)


def _value(found: str) -> Decimal | None:
    """A number, or a fraction of two; None if it is neither."""
    digits = found.replace("$", "").replace(",", "")
    if not digits or len(digits) > _LONGEST:
        return None
    if _NUMBER.fullmatch(digits):
        return Decimal(digits)
    fraction = _FRACTION.match(digits)
    parts = [] if fraction is None else [part for part in fraction.group(*_PARTS) if part is not None]
    if fraction is None or not all(_NUMBER.fullmatch(part.strip()) for part in parts) or not Decimal(parts[1]):
        return None
    value = int(fraction["whole"] or 0) + Decimal(parts[0]) / Decimal(parts[1])
    return -value if fraction["minus"] else value


def _marked(text: str) -> str | None:
    """The number with which the first line after "####" begins, of those that are no headings numbered from 1."""
    heading = 1
    lines = _MARKED.findall(text)
    if len(lines) == 1 and (quantity := _NUMBERED_QUANTITY.match(lines[0])):
        return quantity[1]
    for line in lines:
        if (found := _HEADING.match(line)) and found[1] == str(heading):
            heading += 1
        elif number := _NUMBER.match(line, _BEFORE.match(line).end()):  # type: ignore[union-attr] # may be empty
            return _last_of_sum(line[number.start() :])
    return None


def _boxed(text: str) -> str | None:
    """The first number in the last box that has one, or all that it has if that is a fraction."""
    for box in reversed(list(_BOXED.finditer(text))[-_MOST_BOXES:]):
        inside = _SPACED_MINUS.sub(r"\1\2", text[box.end() : _closing_brace(text, box.end())])
        if _NUMBER.search(inside):
            result = inside.rpartition("=")[2]
            result = result if _NUMBER.search(result) else inside
            return result if "frac" in result or _FRACTION.match(result) else _last_of_sum(result)
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
