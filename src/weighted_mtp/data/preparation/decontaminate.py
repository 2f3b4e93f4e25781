"""Training problems that overlap evaluation sets: the same or nearly the same statement, or the same program.

Statements are compared as normalised words (lower case, letters and digits), programs as tokens without comments,
docstrings and white space. Two texts overlap if they are equal, or if the n-grams that they share cover enough of
them. Brown et al. 2020 (GPT-3, arXiv 2005.14165, appendix C) drop a document for a single shared 13-gram. Contest
problems share those by the hundred without being related ("the first line contains two integers n and m 1 n 2 10 5"):
of 315 CodeContests training problems 72 share one with the test split, but never more than 27 % of the shorter
statement; true duplicates share 96 % and more. Hence a share, as in Chowdhery et al. 2022 (PaLM, arXiv 2204.02311,
section 8). The same holds for programs and their authors' templates.

Not found: paraphrases, translations, and programs with other names in them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from weighted_mtp.data.preparation.fingerprints import Fingerprints, Prints, of_programs, of_statements, tokens, words
from weighted_mtp.data.schema import Problem, Solution
from weighted_mtp.data.tables import read_solutions, read_statements

OverlapKind = Literal["exact statement", "statement n-gram", "exact solution", "solution n-gram"]

STATEMENT_WORDS = 13
"""n of the n-grams of statements; a shorter statement is compared as a whole."""
STATEMENT_SHARE = 0.3
"""Share of the *shorter* statement's words in common n-grams: a statement may stand inside a longer one."""
PROGRAM_TOKENS = 30
"""n of the n-grams of programs; a shorter program is compared as a whole."""
PROGRAM_SHARE = 0.7
"""Share of the *longer* program's tokens in common n-grams: short programs by one author are mostly a template."""

_TRIVIAL = 20  # tokens below which two programs are equal by chance
_COMMON = 10  # n-grams of more evaluation problems than this are boilerplate, and would only cost time
_SPARSE = 16  # places an n-gram in the table that spares most searches
_SHOWN = 240  # characters of the shared text in a report


@dataclass(frozen=True)
class Overlap:
    """What a training problem shares with an evaluation problem."""

    problem_id: str  # of the evaluation problem
    kind: OverlapKind
    text: str  # the shared words or tokens, the beginning of them


class ContaminationCheck:
    """Compares training problems with evaluation splits, of whose statements and correct programs it holds n-grams."""

    def __init__(self, problems: Iterable[Problem], solutions: Iterable[Solution]) -> None:
        problems, programs = list(problems), [solution for solution in solutions if solution.is_correct]
        self._statements = _Texts(
            [problem.problem_id for problem in problems],
            of_statements(problem.description for problem in problems),
            *(STATEMENT_WORDS, STATEMENT_SHARE),
            of_longer=False,
        )
        self._programs = _Texts(
            [program.problem_id for program in programs],
            of_programs((program.code, program.language) for program in programs),
            *(PROGRAM_TOKENS, PROGRAM_SHARE),
            of_longer=True,
            least=_TRIVIAL,
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
        if (shared := self._statements.first(of_statements([problem.description]))) is not None:
            return shared.overlap("statement", words(problem.description))
        programs = of_programs((solution.code, solution.language) for solution in solutions)
        if (shared := self._programs.first(programs)) is not None:
            solution = solutions[shared.text]
            return shared.overlap("solution", tokens(solution.code, solution.language))
        return None


@dataclass(frozen=True)
class _Shared:
    """What one of some texts shares with an evaluation text."""

    text: int  # its number
    name: str  # of the evaluation text
    is_all: bool  # whether the two are equal
    run: slice  # of its words, the longest that is shared

    def overlap(self, of: Literal["statement", "solution"], text: Sequence[str]) -> Overlap:
        kinds: dict[str, tuple[OverlapKind, OverlapKind]] = {
            "statement": ("exact statement", "statement n-gram"),
            "solution": ("exact solution", "solution n-gram"),
        }
        return Overlap(self.name, kinds[of][0 if self.is_all else 1], _beginning(text[self.run]))


class _Texts:
    """Evaluation texts, and which of them shares the most with a given one.

    Of an n-gram it holds the fingerprint, the number of its text, and its places in a table that makes looking up
    quick: 28 to 44 bytes.
    """

    def __init__(
        self,
        names: Sequence[str],
        texts: Iterable[Fingerprints],
        n: int,
        share: float,
        *,
        of_longer: bool,
        least: int = 1,
    ) -> None:
        """`names` are the problems of `texts`; a text of fewer than `least` words is left out."""
        self.n, self.share, self.of_longer = n, share, of_longer
        self._whole: dict[int, str] = {}  # fingerprint of a text → its name
        kept: list[str] = []
        lengths: list[int] = []
        grams: list[Prints] = []
        name = iter(names)
        for some in texts:
            for whole, runs, length in some.each(n):
                problem = next(name)
                if length >= least and whole not in self._whole:
                    self._whole[whole] = problem
                    kept.append(problem)
                    lengths.append(length)
                    grams.append(np.unique(runs))
        self._names, self._lengths = kept, np.asarray(lengths, dtype=np.int64)
        self._grams, self._homes = self._sorted(grams)
        self._maybe = np.zeros(1 << (_SPARSE * len(self._grams)).bit_length(), np.bool_)
        self._maybe[self._slot(self._grams)] = True

    def first(self, texts: Iterable[Fingerprints]) -> _Shared | None:
        """What the first of the texts that overlaps an evaluation text shares with it; None if none does."""
        before = 0
        for some in texts:
            wholes, runs = some.of_texts(), some.of_runs(self.n)
            for number in self._suspects(some, wholes, runs).tolist():
                start, end = some.starts[number], some.ends[number]
                own = runs[start : max(start, end - self.n + 1)]
                if (found := self._overlap(int(wholes[number]), own, int(end - start))) is not None:
                    return _Shared(before + number, *found)
            before += len(some.ends)
        return None

    def _suspects(self, texts: Fingerprints, wholes: Prints, runs: Prints) -> NDArray[np.int64]:
        """Texts that equal one here, or might overlap one if all that they share with any were shared with it."""
        equal = np.fromiter(map(self._whole.__contains__, wholes.tolist()), np.bool_, len(wholes))
        hits, _ = self._found(runs)
        text = np.searchsorted(texts.ends, hits, side="right")
        within = hits + self.n <= texts.ends[text]
        text, hits = text[within], hits[within]
        covered = np.bincount(text, self._steps(text, hits), minlength=len(wholes))
        enough = self.share * (texts.ends - texts.starts) if self.of_longer else 1
        return np.flatnonzero(equal | (covered > 0) & (covered >= enough))

    def _overlap(self, whole: int, runs: Prints, length: int) -> tuple[str, bool, slice] | None:
        """(name of the evaluation text, whether it is equal, where the shared words are), or None."""
        if (same := self._whole.get(whole)) is not None:
            return same, True, slice(None)
        homes, positions = self._shared(runs)
        if not len(homes):
            return None
        covered = np.bincount(homes, self._steps(homes, positions), minlength=len(self._names))
        base = (np.maximum if self.of_longer else np.minimum)(self._lengths, length)
        best = int(np.argmax(covered / base))
        if covered[best] < self.share * base[best]:
            return None
        return self._names[best], False, self._longest_run(positions[homes == best])

    def _slot(self, grams: Prints) -> Prints:
        """Place in the table that tells most n-grams which are not there from those which may be; by the upper bits,
        in which all words count."""
        return grams >> np.uint64(65 - len(self._maybe).bit_length())

    def _sorted(self, grams: list[Prints]) -> tuple[Prints, NDArray[np.int32]]:
        """All n-grams in order with the numbers of their texts, without those of too many problems."""
        problem = np.unique(np.asarray(self._names, dtype=object), return_inverse=True)[1]
        homes = np.repeat(np.arange(len(grams), dtype=np.int32), [len(g) for g in grams])
        flat = np.concatenate([*grams, np.empty(0, np.uint64)])
        order = np.lexsort((problem[homes], flat))  # by n-gram, then by problem: equal ones stand together
        flat, homes = flat[order], homes[order]
        new_gram = np.diff(flat, prepend=~flat[:1]) != 0
        new_problem = new_gram | (np.diff(problem[homes], prepend=-1) != 0)
        gram = np.cumsum(new_gram) - 1
        # The sum of "another problem begins here" over one n-gram is the number of problems that have it.
        kept = np.bincount(gram, new_problem)[gram] <= _COMMON
        return flat[kept], homes[kept]

    def _found(self, runs: Prints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(position in `runs`, first place among all n-grams) of every n-gram that an evaluation text has, too."""
        # Most n-grams of training texts are in no evaluation text; one look into the small table drops nearly all of
        # them, and only the rest are searched among the sorted ones.
        here = np.flatnonzero(self._maybe[self._slot(runs)])
        place = np.searchsorted(self._grams, runs[here])
        is_there = self._grams.take(place, mode="clip") == runs[here]
        return here[is_there], place[is_there]

    def _shared(self, runs: Prints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(number of an evaluation text, position in this text) of every shared n-gram, in order."""
        here, first = self._found(runs)
        last = np.searchsorted(self._grams, runs[here], side="right")
        count = last - first
        position = np.repeat(here, count)
        # 0 … count - 1 for every n-gram: with its first place, all places of its equals.
        within = np.arange(len(position)) - np.repeat(np.cumsum(count) - count, count)
        homes = self._homes[np.repeat(first, count) + within].astype(np.int64)
        order = np.argsort(homes, kind="stable")
        return homes[order], position[order]

    def _steps(self, homes: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Words that each shared n-gram covers beyond the one before it."""
        same = np.diff(homes, prepend=-1) == 0
        return np.where(same, np.minimum(np.diff(positions, prepend=0), self.n), self.n)

    def _longest_run(self, positions: NDArray[np.int64]) -> slice:
        runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
        longest = max(runs, key=len)
        return slice(longest[0], longest[-1] + self.n)


def _beginning(text: Sequence[str]) -> str:
    joined = " ".join(text)
    return joined if len(joined) <= _SHOWN else f"{joined[:_SHOWN]} …"
