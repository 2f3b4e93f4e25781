"""Texts as 64-bit fingerprints of their words, and of runs of words, hundreds of texts at a time.

A fingerprint is a polynomial modulo 2**64 of what it is of (Karp and Rabin 1987), so that those of all runs of n words
are differences of prefix sums, at one cost whatever n. `words` and `tokens` say in plain text what the words are; the
fingerprints are of the same ones, many times as fast: bytes are told apart by a table, and a regular expression is left
with comments and strings.

Shapes: N texts, W words of all of them together.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_mtp.data.sampling import scrambled

Prints = NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15  # of the polynomial: odd, so that it has an inverse
_AT_ONCE = 1 << 16  # bytes, so that a core's cache holds the arrays of them
_SPACE, _COMMENT = b" #"

_WORD = re.compile(r"[^\W_]+")
_STRING = r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
_DOCSTRING = r"""\"""[\s\S]*?(?:\"""|\Z)|'''[\s\S]*?(?:'''|\Z)"""
_PREFIX = "[rbuRBUfF]"
_BEFORE = re.compile(rf"(?<!\w){_PREFIX}{{1,2}}\Z".encode())

_BLANK, _LETTER, _SIGN, _INSIDE = range(4)
"""Kinds of bytes: a sign is a token, or the first byte of one that continues inside."""


class _Language:
    """How programs fall into tokens.

    token     all that programs consist of; what is dropped stands before the one group, which is what is kept
    quoted    only comments and strings, without a string's prefix: `re` is quick where alternatives begin with letters
    dropped   beginnings of what `quoted` finds and `token` drops
    prefixes  whether strings have them
    """

    def __init__(self, token: str, quoted: str, dropped: tuple[bytes, ...], *, prefixes: bool) -> None:
        self.token, self.quoted = re.compile(token), re.compile(quoted.encode())
        self.dropped, self.prefixes = dropped, prefixes
        kinds = (
            _LETTER if re.match(r"\w", c) else _SIGN if self.token.findall(c) == [c] else _BLANK
            for c in map(chr, range(128))
        )
        self.kinds = bytes([*kinds, *[_LETTER] * 128])  # beyond ASCII `_plain` leaves none but whole tokens


_PYTHON = _Language(
    rf"#[^\n]*|{_PREFIX}{{0,2}}(?:{_DOCSTRING})|({_PREFIX}{{0,2}}(?:{_STRING})|\w+|[^\w\s\\])",
    rf"#[^\n]*|{_DOCSTRING}|{_STRING}",
    (b"#", b'"""', b"'''"),
    prefixes=True,
)
_OTHER = _Language(
    rf"/\*[\s\S]*?(?:\*/|\Z)|//[^\n]*|({_STRING}|\w+|[^\w\s])",
    rf"/\*[\s\S]*?(?:\*/|\Z)|//[^\n]*|{_STRING}",
    (b"/",),
    prefixes=False,
)


def words(text: str) -> list[str]:
    """Normalised words of a statement: lower case, letters and digits, no punctuation."""
    return _WORD.findall(text.lower())


def tokens(code: str, language: str) -> list[str]:
    """Tokens of a program without comments and white space; of a Python one also without docstrings (any triple quote).

    By a regular expression, which takes every program, also one that does not parse. Python's block structure goes with
    the white space.
    """
    return list(filter(None, _language(language).token.findall(code)))


def _language(name: str) -> _Language:
    return _PYTHON if name.startswith("python") else _OTHER


@dataclass(frozen=True)
class Fingerprints:
    """Texts as fingerprints of their words.

    prints  (W,) of the words of one text after the other
    ends    (N,) words up to the end of each text
    """

    prints: Prints
    ends: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        """(N,) words before each text."""
        return np.concatenate([[0], self.ends[:-1]])

    def of_texts(self) -> Prints:
        """(N,) of each text as a whole."""
        return _polynomials(self.prints, self.starts, self.ends)

    def of_runs(self, n: int) -> Prints:
        """(W - n + 1,) of `n` words from each word on, whatever text they are of; none where W < n."""
        firsts = max(len(self.prints) - n + 1, 0)
        return _polynomials(self.prints, slice(firsts), slice(n, n + firsts))

    def each(self, n: int) -> Iterator[tuple[int, Prints, int]]:
        """For every text: the fingerprint of the whole, those of its runs of `n` words, and its number of words."""
        runs = self.of_runs(n)
        for whole, start, end in zip(*(a.tolist() for a in (self.of_texts(), self.starts, self.ends)), strict=True):
            yield whole, runs[start : max(start, end - n + 1)], end - start


def of_statements(statements: Iterable[str]) -> Iterator[Fingerprints]:
    """Statements as fingerprints of their `words`, some at a time."""
    return of_programs(("\n".join(words(statement)), "") for statement in statements)


def of_programs(programs: Iterable[tuple[str, str]]) -> Iterator[Fingerprints]:
    """Programs, each with its language, as fingerprints of their `tokens`, some at a time."""
    texts: list[bytes] = []
    kinds: list[bytearray] = []
    size = 0
    for code, name in programs:
        language = _language(name)
        texts.append(_plain(code, language))
        kinds.append(_kinds(texts[-1], language))
        size += len(texts[-1])
        if size >= _AT_ONCE:
            yield _fingerprints(texts, kinds)
            texts, kinds, size = [], [], 0
    if texts:
        yield _fingerprints(texts, kinds)


def _plain(code: str, language: _Language) -> bytes:
    """The program if it is pure ASCII; else its tokens, one per line, which tokenize to the same tokens."""
    return (code if code.isascii() else "\n".join(filter(None, language.token.findall(code)))).encode()


def _kinds(text: bytes, language: _Language) -> bytearray:
    """The kind of every byte."""
    kinds = bytearray(text.translate(language.kinds))
    for found in language.quoted.finditer(text):
        start, end = found.span()
        is_dropped = text.startswith(language.dropped, start)
        if language.prefixes and start and kinds[start - 1] == _LETTER and text[start] != _COMMENT:
            before = _BEFORE.search(text, max(start - 2, 0), start)
            start = before.start() if before else start
        kinds[start:end] = (bytes if is_dropped else _string_kinds)(end - start)
    return kinds


@functools.lru_cache(maxsize=256)
def _string_kinds(n: int) -> bytes:
    return bytes([_SIGN, *[_INSIDE] * (n - 1)])


def _fingerprints(texts: list[bytes], kinds: list[bytearray]) -> Fingerprints:
    # A token begins at a sign, and at a letter that follows no letter; everything up to the next beginning belongs to
    # it, blanks included, which `_VALUES` counts as 0.
    text, kind = (np.frombuffer(joined, np.uint8) for joined in (b"\n".join(texts), b"\0".join(kinds)))
    is_letter = kind == _LETTER
    begins = kind == _SIGN
    begins[1:] |= is_letter[1:] & ~is_letter[:-1]
    begins[:1] |= is_letter[:1]
    starts = np.flatnonzero(begins)
    values = _VALUES[np.where(kind == _BLANK, np.uint8(_SPACE), text)]
    # Scrambled one to one, so that sums of words do not equal sums of other words.
    prints = scrambled(_polynomials(values, starts, np.append(starts[1:], len(values))))
    text_ends = np.cumsum([len(each) + 1 for each in texts]) - 1
    return Fingerprints(prints, np.searchsorted(starts, text_ends))


def _polynomials(values: Prints, starts: Any, stops: Any) -> Prints:
    """The fingerprint of `values[start:stop]` for every pair of positions, given as arrays or slices."""
    # Σ v_i b^i over a range is a difference of two running sums; times b^-start it no longer depends on where the range
    # lies, so equal texts have equal fingerprints anywhere. b is odd, hence invertible modulo 2**64, and overflow is
    # that modulus.
    powers, inverses = _powers(max(2 * _AT_ONCE, 1 << len(values).bit_length()))
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return (sums[stops] - sums[starts]) * inverses[starts]


@functools.lru_cache(maxsize=1)
def _powers(n: int) -> tuple[Prints, Prints]:
    """(n,) powers of `_BASE` and of its inverse, from 0 on, modulo 2**64."""
    powers = [np.full(n, base, np.uint64) for base in (_BASE, pow(_BASE, -1, 2**64))]
    for each in powers:
        each[0] = 1
        np.cumprod(each, out=each)
    return powers[0], powers[1]


_VALUES = scrambled(np.arange(1, 257, dtype=np.uint64))
_VALUES[_SPACE] = 0  # no token begins or ends with it, so that what is blank behind one does not count
