"""Preparation of CodeContests as one writes it with `datasets` alone, to compare with: the same programs come out.

`load_dataset` on the Parquet files, one `map` over problems, one `filter`. Of a row: line ends unified; programs in
Python 3, not too long, each once, none that is labelled both ways; tests in one list. Overlaps with the evaluation
splits are found as one does it first: n-grams as tuples in a dictionary to the evaluation texts that have them, and for
every n-gram of a text a look at whom it covers. Words, tokens and thresholds are ours (`fingerprints.py`,
`decontaminate.py`), as they say what is to be found. The rows end in the cache of `datasets`, Arrow without
compression; ours end in compressed Parquet with checksums, which is not asked of this side.

With `search="ours"` the n-grams are looked up by `ContaminationCheck`, and the rest is as before.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars, load_dataset

from weighted_mtp.data.preparation.decontaminate import (
    _COMMON,
    _TRIVIAL,
    PROGRAM_SHARE,
    PROGRAM_TOKENS,
    STATEMENT_SHARE,
    STATEMENT_WORDS,
    ContaminationCheck,
)
from weighted_mtp.data.preparation.fingerprints import tokens, words
from weighted_mtp.data.schema import Problem, Solution

_PYTHON3, _LONGEST = 3, 100_000
Row = dict[str, Any]


class Overlaps:
    """Which texts share much with one of some (problem, words)."""

    def __init__(self, texts: list[tuple[str, list[str]]], n: int, share: float, base: Callable[..., int]) -> None:
        self.n, self.share, self.base = n, share, base
        self.sizes, self.whole = [len(text) for _, text in texts], {tuple(text) for _, text in texts}
        homes, problems = defaultdict(set), defaultdict(set)
        for number, (problem, text) in enumerate(texts):
            for gram in self.grams(text):
                homes[gram].add(number)
                problems[gram].add(problem)
        self.homes = {gram: numbers for gram, numbers in homes.items() if len(problems[gram]) <= _COMMON}

    def grams(self, text: list[str]) -> Iterator[tuple[str, ...]]:
        return (tuple(text[i : i + self.n]) for i in range(len(text) - self.n + 1))

    def __contains__(self, text: list[str]) -> bool:
        if tuple(text) in self.whole:
            return True
        covered, end = defaultdict(int), defaultdict(int)
        for start, gram in enumerate(self.grams(text)):
            for home in self.homes.get(gram, ()):
                covered[home] += min(self.n, start + self.n - end[home])
                end[home] = start + self.n
        return any(n >= self.share * self.base(len(text), self.sizes[home]) for home, n in covered.items())


def unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def clean(row: Row) -> Row:
    programs = []
    for label, is_correct in (("solutions", True), ("incorrect_solutions", False)):
        seen = set()
        for language, program in zip(row[label]["language"], row[label]["solution"], strict=True):
            code = unix(program)
            if language == _PYTHON3 and len(code) <= _LONGEST and code not in seen:
                seen.add(code)
                programs.append({"code": code, "is_correct": is_correct})
    correct, incorrect = ({p["code"] for p in programs if p["is_correct"] is label} for label in (True, False))
    return {
        "name": row["name"],
        "description": unix(row["description"]).strip(),
        "difficulty": row["difficulty"],
        "rating": row["cf_rating"],
        "tests": [
            {"input": unix(given), "output": unix(expected), "visibility": visibility}
            for visibility in ("public", "private", "generated")
            for given, expected in zip(
                row[f"{visibility}_tests"]["input"], row[f"{visibility}_tests"]["output"], strict=True
            )
        ],
        "programs": [p for p in programs if p["code"] not in correct & incorrect],
    }


def own_search(evaluated: list[Row]) -> Callable[[Row], bool]:
    programs = [(r["name"], tokens(p["code"], "python3")) for r in evaluated for p in r["programs"] if p["is_correct"]]
    statements = [(row["name"], words(row["description"])) for row in evaluated]
    known = Overlaps(statements, STATEMENT_WORDS, STATEMENT_SHARE, min)
    written = Overlaps([p for p in programs if len(p[1]) >= _TRIVIAL], PROGRAM_TOKENS, PROGRAM_SHARE, max)
    return lambda row: (
        words(row["description"]) in known or any(tokens(p["code"], "python3") in written for p in row["programs"])
    )


def our_search(evaluated: list[Row]) -> Callable[[Row], bool]:
    def entry(row: Row) -> tuple[Problem, list[Solution]]:
        name = row["name"]
        programs = [Solution("", name, program["code"], program["is_correct"]) for program in row["programs"]]
        return Problem(name, "", "", row["description"]), programs

    entries = [entry(row) for row in evaluated]
    check = ContaminationCheck((e[0] for e in entries), (program for e in entries for program in e[1]))
    return lambda row: check.find(*entry(row)) is not None


def prepare(source: Path, cache: Path, workers: int, search: str = "own") -> Dataset:
    """The training problems that are left, of each its programs."""
    disable_progress_bars()
    files = {split: sorted(map(str, (source / "data").glob(f"{split}-*"))) for split in ("train", "valid", "test")}
    data = load_dataset("parquet", data_files=files, cache_dir=str(cache))
    evaluated = [clean(row) for split in ("valid", "test") for row in data[split]]
    overlaps = (our_search if search == "ours" else own_search)(evaluated)

    def work(row: Row) -> Row:
        cleaned = clean(row)
        return {**cleaned, "is_kept": bool(cleaned["programs"]) and not overlaps(cleaned)}

    train = data["train"].map(
        work,
        remove_columns=data["train"].column_names,
        num_proc=workers if workers > 1 else None,
        writer_batch_size=100,  # rows of hundreds of programs: with the default of 1,000 memory is a gigabyte
    )
    return train.filter(lambda is_kept: is_kept, input_columns="is_kept")
