"""A drawn corpus of any size in CodeContests' own columns, in the hub's layout: Parquet shards of three splits.

Lengths are log-normal and solutions a problem heavy-tailed, as in the real one; programs are put together from some
thousands of lines that contestants write, so that they tokenize like programs. Texts are shorter than the real ones
(a program 500 characters instead of 1,300), so that a million fit on a laptop.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_LINES = (
    "{a} = int(input())",
    "{a}, {b} = map(int, input().split())",
    "{a} = list(map(int, input().split()))",
    "for {b} in range({n}, len({a})):\n    {c} = max({c}, {a}[{b}] - {a}[{b} - 1])",
    "if {a} % {n} == 0 and {b} > {m}:\n    {c} += {a} // {n}\nelse:\n    {c} -= 1",
    "while {a} < {b}:\n    {c} = ({a} + {b}) // 2",
    "    if {c} * {c} <= {n}:\n        {a} = {c} + 1\n    else:\n        {b} = {c}",
    "{c} = sorted({a}, key=lambda {b}: -{b})",
    "{c} = [[0] * ({a} + 1) for _ in range({b} + {n})]",
    "def {a}({b}, {c}={n}):\n    return {b} if {c} == 0 else {a}({c}, {b} % {c})",
    "{a}.append(({b}, {c}))",
    "print({a} if {b} <= {m} else -1)",
    'print(" ".join(str({b}) for {b} in {a}))',
    "# {a} of the {b} that is left after {c}",
    "{c} = sum(1 for {b} in {a} if {b} > {n}) % ({m} + 7)",
    "import sys\n{a} = sys.stdin.readline",
    "from collections import Counter\n{c} = Counter({a}).most_common({n})",
)
_NAMES = (
    "n",
    "m",
    "k",
    "a",
    "b",
    "x",
    "ans",
    "res",
    "cur",
    "best",
    "left",
    "right",
    "graph",
    "used",
    "dp",
    "cnt",
    "mid",
)
_WORDS = (
    *("given", "an", "array", "of", "integers", "and", "a", "string", "print", "one", "number", "for", "each", "case"),
    *(
        "where",
        "it",
        "is",
        "possible",
        "to",
        "choose",
        "some",
        "vertices",
        "so",
        "that",
        "the",
        "sum",
        "maximum",
        "cost",
    ),
    *("path", "between", "them", "does", "not", "exceed", "Polycarp", "has", "several", "tasks", "with", "length", "k"),
)
_LANGUAGES, _SHARES = (3, 2, 4, 1), (0.7, 0.2, 0.06, 0.04)  # python3, cpp, java, python2
_TEXTS = {"input": pa.list_(pa.string()), "output": pa.list_(pa.string())}
_PROGRAMS = {"language": pa.list_(pa.int64()), "solution": pa.list_(pa.string())}
SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "description": pa.string(),
        "public_tests": pa.struct(_TEXTS),
        "private_tests": pa.struct(_TEXTS),
        "generated_tests": pa.struct(_TEXTS),
        "source": pa.int64(),
        "difficulty": pa.int64(),
        "solutions": pa.struct(_PROGRAMS),
        "incorrect_solutions": pa.struct(_PROGRAMS),
        "cf_contest_id": pa.int64(),
        "cf_index": pa.string(),
        "cf_points": pa.float32(),
        "cf_rating": pa.int32(),
        "cf_tags": pa.list_(pa.string()),
        "is_description_translated": pa.bool_(),
        "untranslated_description": pa.string(),
        "time_limit": pa.struct({"seconds": pa.int64(), "nanos": pa.int64()}),
        "memory_limit_bytes": pa.int64(),
        "input_file": pa.string(),
        "output_file": pa.string(),
    }
)


class Corpus:
    """Draws problems one after another; everything is a function of `seed`."""

    def __init__(self, seed: int = 0, characters: float = 500.0) -> None:
        self._rng = np.random.default_rng(seed)
        self._characters, self._number = characters, 0
        self._blocks = [self._block() for _ in range(8_000)]

    def write(self, folder: Path, n_solutions: int, rows_a_shard: int = 20, evaluated: int = 40) -> int:
        """Shards of some 270 solutions a problem until there are `n_solutions` to train on; returns their number."""
        (folder / "data").mkdir(parents=True)
        n_problems = max(1, n_solutions // 270)
        popularity = self._rng.pareto(1.2, n_problems) + 0.3
        each = self._rng.multinomial(n_solutions, popularity / popularity.sum())
        for split, sizes in {"valid": [60] * evaluated, "test": [60] * evaluated, "train": each.tolist()}.items():
            shards = [sizes[start : start + rows_a_shard] for start in range(0, len(sizes), rows_a_shard)]
            for number, shard in enumerate(shards):
                rows = [self._row(size) for size in shard]
                path = folder / "data" / f"{split}-{number:05}-of-{len(shards):05}.parquet"
                pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
        return n_solutions

    def _block(self) -> str:
        a, b, c = self._rng.choice(_NAMES, 3)
        n, m = self._rng.integers(1, 1000, 2)
        return self._rng.choice(_LINES).format(a=a, b=b, c=c, n=n, m=m)

    def _length(self, median: float, spread: float, size: int) -> np.ndarray:
        return np.exp(self._rng.normal(np.log(median), spread, size))

    def _programs(self, n: int) -> dict[str, list[Any]]:
        sizes = np.ceil(self._length(self._characters, 0.7, n) / 55).astype(int)
        chosen = iter(self._rng.integers(len(self._blocks), size=sizes.sum()).tolist())
        firsts = self._rng.integers(10**9, size=n).tolist()  # short programs would be equal otherwise
        programs = [
            "\n".join([f"limit = {first}", *(self._blocks[next(chosen)] for _ in range(size)), ""])
            for first, size in zip(firsts, sizes.tolist(), strict=True)
        ]
        for number in np.flatnonzero(self._rng.random(n) < 0.1).tolist():
            programs[number] = programs[number].replace("\n", "\r\n")
        for number in np.flatnonzero(self._rng.random(n) < 0.03).tolist():
            programs[number] = programs[number // 2]  # handed in twice
        return {"language": self._rng.choice(_LANGUAGES, n, p=_SHARES).tolist(), "solution": programs}

    def _tests(self, n: int) -> dict[str, list[str]]:
        sizes = np.ceil(self._length(8, 1.0, n)).astype(int)
        texts = [" ".join(map(str, self._rng.integers(1, 10**5, size).tolist())) + "\n" for size in sizes]
        return {"input": texts, "output": [text[:8] for text in texts]}

    def _row(self, n: int) -> dict[str, Any]:
        correct = round(n * self._rng.beta(2, 2))
        self._number += 1
        words = self._rng.choice(_WORDS, int(self._length(160, 0.4, 1)[0]) + 14).tolist()
        return {
            "name": f"{self._number}_A. Synthetic {self._number}",
            "description": f"Task {self._number}: {' '.join(words)}",
            "public_tests": self._tests(2),
            "private_tests": self._tests(5),
            "generated_tests": self._tests(12),
            "source": 2,
            "difficulty": int(self._rng.integers(6, 16)),
            "solutions": self._programs(correct),
            "incorrect_solutions": self._programs(n - correct),
            "cf_rating": int(self._rng.integers(8, 30)) * 100,
            "cf_tags": ["math", "greedy"],
            "time_limit": {"seconds": 2, "nanos": 0},
            "memory_limit_bytes": 256_000_000,
            "input_file": "",
            "output_file": "",
        }
