"""When what a program printed counts as what was expected."""

import re

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII)
_PRECISION = 1e-5


def same_output(printed: str, expected: str) -> bool:
    """Whether two outputs agree, token by token, as CodeContests' own tester compares them.

    Tokens are parted by white space. Two agree if they are equal but for the case of ASCII letters, or if both are
    decimal numbers, one at least not an integer, that differ by less than 1e-5.

    Source: `OutputsMatch` in execution/tester_sandboxer.cc of google-deepmind/code_contests, by which the dataset's
    generated tests were made (Li et al. 2022, arXiv 2203.07814). Departures: it compares two integers as doubles, so
    that those beyond 2**53 may differ; here they must be equal. "nan" and "inf" are words here.
    """
    if printed.split() == expected.split():
        return True
    ours, theirs = (_lower(text).split() for text in (printed, expected))
    return len(ours) == len(theirs) and all(map(_same_token, ours, theirs))


def _lower(text: str) -> str:
    """Only ASCII letters: `str.lower` would make one letter of several."""
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def _same_token(ours: str, theirs: str) -> bool:
    if ours == theirs:
        return True
    if not (_DECIMAL.fullmatch(ours) and _DECIMAL.fullmatch(theirs)):
        return False
    if _INTEGER.fullmatch(ours) and _INTEGER.fullmatch(theirs):
        return False
    return abs(float(ours) - float(theirs)) < _PRECISION
