"""Training problems that overlap evaluation sets: the same or nearly the same statement, or the same program.

Statements are compared as normalised words (lower case, letters and digits), programs as tokens without comments,
docstrings and white space. Two texts overlap where they are equal, or where n-grams that they share cover enough of
them. Brown et al. 2020 (GPT-3, arXiv 2005.14165, appendix C) drop a document for a single shared 13-gram. Contest
problems share those by the hundred without being related ("the first line contains two integers n and m 1 n 2 10 5"):
of 315 CodeContests training problems 72 share one with the test split, but never more than 27 % of the shorter
statement; true duplicates share 96 % and more. Hence a share, as in Chowdhery et al. 2022 (PaLM, arXiv 2204.02311,
section 8). The same holds for programs and their authors' templates.

Not found: paraphrases, translations, and programs with other names in them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from weighted_mtp.data.schema import Problem, Solution, read_solutions, read_statements

Kind = Literal["exact statement", "statement n-gram", "exact solution", "solution n-gram"]

STATEMENT_WORDS = 13
"""n of the n-grams of statements; a shorter statement is compared as a whole."""
STATEMENT_SHARE = 0.3
"""Of the *shorter* statement's words in shared n-grams: a statement may stand inside a longer one."""
PROGRAM_TOKENS = 30
"""n of the n-grams of programs; a shorter program is compared as a whole."""
PROGRAM_SHARE = 0.7
"""Of the *longer* program's tokens in shared n-grams: short programs of one author are mostly his template."""

_TRIVIAL = 20  # tokens below which two programs are equal by chance
_COMMON = 10  # n-grams of more evaluation problems than this are boilerplate, and would only cost time
_SPARSE = 16  # places an n-gram in the table that spares most searches
_BASE = 0x9E3779B97F4A7C15  # of the polynomial: odd, so that it has an inverse
_SPREAD = np.uint64(0xBF58476D1CE4E5B9)
_SHOWN = 240  # characters of the shared text in a report

_WORD = re.compile(r"[^\W_]+")
# What is dropped stands before the one group: comments, and in Python texts in triple quotes.
_PYTHON = re.compile(
    r"""#[^\n]*|[rbuRBUfF]{0,2}(?:\"{3}[\s\S]*?(?:\"{3}|\Z)|'{3}[\s\S]*?(?:'{3}|\Z))"""
    r"""|([rbuRBUfF]{0,2}(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|\w+|[^\w\s\\])"""
)
_OTHER = re.compile(r"""/\*[\s\S]*?(?:\*/|\Z)|//[^\n]*|("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\w+|[^\w\s])""")


@dataclass(frozen=True)
class Overlap:
    """What a training problem shares with an evaluation problem."""

    problem_id: str  # of the evaluation problem
    kind: Kind
    text: str  # the shared words or tokens, the beginning of them


class ContaminationCheck:
    """Compares training problems with evaluation splits, whose statements and correct programs it holds in memory."""

    def __init__(self, problems: Iterable[Problem], solutions: Iterable[Solution]) -> None:
        self._statements = _Texts(
            ((p.problem_id, words(p.description)) for p in problems), STATEMENT_WORDS, STATEMENT_SHARE, of_longer=False
        )
        programs = ((s.problem_id, tokens(s.code, s.language)) for s in solutions if s.is_correct)
        self._programs = _Texts(
            ((name, program) for name, program in programs if len(program) >= _TRIVIAL),
            *(PROGRAM_TOKENS, PROGRAM_SHARE),
            of_longer=True,
        )

    @classmethod
    def of(cls, split_directories: Iterable[Path]) -> "ContaminationCheck":
        """A check against prepared evaluation splits. Raises UserError as `read_statements`."""
        folders = list(split_directories)
        return cls(
            (problem for folder in folders for problem in read_statements(folder)),
            (solution for folder in folders for solution in read_solutions(folder)),
        )

    def find(self, problem: Problem, solutions: Sequence[Solution]) -> Overlap | None:
        """The evaluation problem that a training problem overlaps, by its statement or any of its solutions.

        Incorrect solutions count, too: one may be an evaluation problem's program with a fault put in.
        """
        found = self._statements.overlap(words(problem.description))
        if found is not None:
            name, exact, text = found
            return Overlap(name, "exact statement" if exact else "statement n-gram", text)
        for solution in solutions:
            program = tokens(solution.code, solution.language)
            if len(program) >= _TRIVIAL and (found := self._programs.overlap(program)) is not None:
                name, exact, text = found
                return Overlap(name, "exact solution" if exact else "solution n-gram", text)
        return None


def words(text: str) -> list[str]:
    """Normalised words of a statement: lower case, letters and digits, no punctuation."""
    return _WORD.findall(text.lower())


def tokens(code: str, language: str) -> list[str]:
    """Tokens of a program without comments and white space; of a Python one also without docstrings (any triple quote).

    By a regular expression, which takes every program, also one that does not parse, at many times the speed of
    `tokenize`. Python's block structure goes with the white space.
    """
    return list(filter(None, (_PYTHON if language.startswith("python") else _OTHER).findall(code)))


class _Texts:
    """Evaluation texts, and which of them shares the most with a given one.

    A text is the numbers of its words in a vocabulary that holds the evaluation side's alone (0 for others), an n-gram
    a polynomial of its scrambled numbers, modulo 2**64: a stable hash in 8 bytes, by differences of prefix sums at the
    same cost whatever n (Karp and Rabin 1987). With its text's number and its places in a table that makes looking up
    quick, that is 28 to 44 bytes an n-gram.
    """

    def __init__(self, texts: Iterable[tuple[str, Sequence[str]]], n: int, share: float, *, of_longer: bool) -> None:
        self.n, self.share, self.of_longer = n, share, of_longer
        self._powers = self._inverses = np.ones(1, np.uint64)
        self._vocabulary: dict[str, int] = {}
        self._whole: dict[bytes, str] = {}
        names: list[str] = []
        lengths: list[int] = []
        grams: list[NDArray[np.uint64]] = []
        for name, text in texts:
            for word in text:
                self._vocabulary.setdefault(word, len(self._vocabulary) + 1)
            numbers = self._numbers(text)
            if len(text) and numbers.tobytes() not in self._whole:
                self._whole[numbers.tobytes()] = name
                names.append(name)
                lengths.append(len(text))
                grams.append(np.unique(self._hashes(numbers)))
        self._names, self._lengths = names, np.asarray(lengths, dtype=np.int64)
        self._grams, self._homes = self._sorted(grams)
        self._maybe = np.zeros(1 << (_SPARSE * len(self._grams)).bit_length(), np.bool_)
        self._maybe[self._slot(self._grams)] = True

    def overlap(self, text: Sequence[str]) -> tuple[str, bool, str] | None:
        """(name of the evaluation text, whether it is equal, shared words), or None."""
        numbers = self._numbers(text)
        if (same := self._whole.get(numbers.tobytes())) is not None:
            return same, True, _beginning(text)
        homes, positions = self._shared(numbers)
        if not len(homes):
            return None
        covered = np.bincount(homes, self._steps(homes, positions), minlength=len(self._names))
        base = (np.maximum if self.of_longer else np.minimum)(self._lengths, len(text))
        best = int(np.argmax(covered / base))
        if covered[best] < self.share * base[best]:
            return None
        return self._names[best], False, _beginning(self._longest_run(text, positions[homes == best]))

    def _numbers(self, text: Sequence[str]) -> NDArray[np.uint64]:
        return np.fromiter(map(self._vocabulary.get, text, repeat(0)), np.uint64, len(text))

    def _hashes(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        if len(numbers) < self.n:
            return np.empty(0, np.uint64)
        if len(numbers) > len(self._powers):
            self._powers, self._inverses = (_powers(base, 2 * len(numbers)) for base in (_BASE, pow(_BASE, -1, 2**64)))
        scrambled = (numbers + np.uint64(1)) * _SPREAD
        scrambled ^= scrambled >> np.uint64(29)
        sums = np.zeros(len(numbers) + 1, np.uint64)
        np.cumsum(scrambled * self._powers[: len(numbers)], out=sums[1:])
        return (sums[self.n :] - sums[: -self.n]) * self._inverses[: len(sums) - self.n]

    def _slot(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Place in the table that tells most n-grams which are not there from those which may be; by the upper bits,
        on which all words have their say."""
        return hashes >> np.uint64(65 - len(self._maybe).bit_length())

    def _sorted(self, grams: list[NDArray[np.uint64]]) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        """All n-grams in order with the numbers of their texts, without those of too many problems."""
        problem = np.unique(np.asarray(self._names, dtype=object), return_inverse=True)[1]
        homes = np.repeat(np.arange(len(grams), dtype=np.int32), [len(g) for g in grams])
        flat = np.concatenate([*grams, np.empty(0, np.uint64)])
        order = np.lexsort((problem[homes], flat))
        flat, homes = flat[order], homes[order]
        new_gram = np.diff(flat, prepend=~flat[:1]) != 0
        new_problem = new_gram | (np.diff(problem[homes], prepend=-1) != 0)
        gram = np.cumsum(new_gram) - 1
        kept = np.bincount(gram, new_problem)[gram] <= _COMMON
        return flat[kept], homes[kept]

    def _shared(self, numbers: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(number of an evaluation text, position in this text) of every shared n-gram, in order."""
        hashes = self._hashes(numbers)
        here = np.flatnonzero(self._maybe[self._slot(hashes)])
        first, last = (np.searchsorted(self._grams, hashes[here], side) for side in ("left", "right"))
        count = last - first
        position = np.repeat(here, count)
        within = np.arange(len(position)) - np.repeat(np.cumsum(count) - count, count)
        homes = self._homes[np.repeat(first, count) + within].astype(np.int64)
        order = np.argsort(homes, kind="stable")
        return homes[order], position[order]

    def _steps(self, homes: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Words that each shared n-gram covers beyond the one before it."""
        same = np.diff(homes, prepend=-1) == 0
        return np.where(same, np.minimum(np.diff(positions, prepend=0), self.n), self.n)

    def _longest_run(self, text: Sequence[str], positions: NDArray[np.int64]) -> Sequence[str]:
        runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
        longest = max(runs, key=len)
        return text[longest[0] : longest[-1] + self.n]


def _powers(base: int, n: int) -> NDArray[np.uint64]:
    """(n,) base**0 … base**(n - 1) modulo 2**64."""
    factors = np.full(n, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def _beginning(text: Sequence[str]) -> str:
    joined = " ".join(text)
    return joined if len(joined) <= _SHOWN else f"{joined[:_SHOWN]} …"
