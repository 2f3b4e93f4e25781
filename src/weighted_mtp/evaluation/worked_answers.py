"""GSM8K's answers are texts: the number that one ends with, and whether it is the right one."""

import re
from decimal import Decimal

from weighted_mtp.evaluation.jobs import Outcome

_MARK = "####"
_NUMBER = re.compile(r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", re.ASCII)
_MARKED = re.compile(rf"{_MARK}\s*({_NUMBER.pattern})", re.ASCII)
_LONGEST = 100  # characters of a number that anybody means


def final_number(text: str) -> Decimal | None:
    """The number that a worked answer ends with: the one after the first "####", else the last one in the text.

    Without commas and dollar sign, and no full stop belongs to it. None where there is no number.

    Source: "####" as in GSM8K's own grader (Cobbe et al. 2021, arXiv 2110.14168; grade_school_math/dataset.py), the
    last number where that is missing as lm-evaluation-harness' `flexible-extract`. Departure from both: numbers are
    compared, not their digits, so 5.00 is 5.
    """
    marked = _MARKED.search(text)
    found = [marked[1]] if marked else _NUMBER.findall(text)
    if not found or len(found[-1]) > _LONGEST:
        return None
    return Decimal(found[-1].replace("$", "").replace(",", ""))


def graded(text: str, expected: str) -> Outcome:
    """The verdict on a worked answer whose right number is `expected`."""
    found = final_number(text)
    if found == Decimal(expected):
        return Outcome("passed")
    answer = "no number" if found is None else f"{found:f}"
    return Outcome("failed", f"answered {answer}, expected {expected}", test=1)
