"""What a prepared dataset holds, in numbers: counts, labels, lengths, difficulties, tests.

Read column by column and group by group, so that no more than some thousand programs are in memory at a time.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from weighted_mtp.data.prepared import require_manifest, split_checksums
from weighted_mtp.data.schema import PROBLEM_SCHEMA, SOLUTION_SCHEMA
from weighted_mtp.data.tables import PROBLEMS_FILE, SOLUTIONS_FILE, opened_table
from weighted_mtp.files import atomic_file, writing_to
from weighted_mtp.manifest import files_present

STATS_FILE = "stats.json"

LENGTH_BINS = np.unique(np.round(np.geomspace(1, 2**20, 81)))
"""Edges of the histograms of program lengths, characters: four to a factor of two."""
_QUANTILES = {"p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}

SplitStats = dict[str, Any]
"""
    problems, correct, incorrect   counts
    with_both_labels, pairs        problems with both labels; pairs of a correct and an incorrect solution of one
                                   problem, no solution in two
    difficulty                     level → problems, -1 where unknown
    with_rating                    problems with a Codeforces rating
    tests                          visibility → number; tests_per_problem: quantiles
    length                         label → quantiles of its programs' characters, and a histogram over LENGTH_BINS
    solutions_per_problem          label → quantiles
    languages, origins             name → solutions
"""


def write_stats(folder: Path) -> tuple[dict[str, SplitStats], bool]:
    """Write `stats.json` of a prepared dataset; returns split → numbers, and whether anything had to be done.

    Raises UserError if the dataset is not prepared or the place cannot be written.
    """
    manifest = require_manifest(folder)
    made_of = {split: split_checksums(manifest, split) for split in manifest["splits"]}
    path = folder / STATS_FILE
    if files_present(folder, manifest, [STATS_FILE]):
        there = json.loads(path.read_text())
        if there["made_of"] == made_of:
            return there["splits"], False
    stats = {split: split_stats(folder / split) for split in made_of}
    with writing_to(path), atomic_file(path) as partial:
        partial.write_text(json.dumps({"made_of": made_of, "splits": stats}, indent=1) + "\n")
    return stats, True


def split_stats(split: Path) -> SplitStats:
    """The numbers of one split."""
    return {**_of_problems(split), **_of_solutions(split)}


def _of_problems(split: Path) -> SplitStats:
    difficulty: Counter[int] = Counter()
    visibility: Counter[str] = Counter()
    n_tests: list[NDArray[np.int64]] = []
    with_rating = 0
    with opened_table(split / PROBLEMS_FILE, PROBLEM_SCHEMA) as file:
        columns = ["difficulty", "rating", "tests.list.element.visibility"]
        for batch in file.iter_batches(1_000, columns=columns):
            difficulty.update(batch["difficulty"].to_pylist())
            with_rating += len(batch) - batch["rating"].null_count
            n_tests.append(pc.list_value_length(batch["tests"]).to_numpy())
            visibility.update(_count(pc.struct_field(batch["tests"].flatten(), "visibility")))
    return {
        "problems": difficulty.total(),
        "difficulty": {str(level): difficulty[level] for level in sorted(difficulty)},
        "with_rating": with_rating,
        "tests": dict(sorted(visibility.items())),
        "tests_per_problem": _quantiles(np.concatenate(n_tests)),
    }


def _of_solutions(split: Path) -> SplitStats:
    languages: Counter[str] = Counter()
    origins: Counter[str] = Counter()
    per_problem: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    lengths: dict[bool, list[NDArray[np.int64]]] = {True: [np.zeros(0, int)], False: [np.zeros(0, int)]}
    with opened_table(split / SOLUTIONS_FILE, SOLUTION_SCHEMA) as file:
        columns = ["problem_id", "is_correct", "language", "origin", "code"]
        for batch in file.iter_batches(4_096, columns=columns):
            languages.update(_count(batch["language"]))
            origins.update(_count(batch["origin"]))
            length = pc.utf8_length(batch["code"])
            for label in (True, False):
                mask = pc.equal(batch["is_correct"], label)
                per_problem[label].update(_count(batch["problem_id"].filter(mask)))
                lengths[label].append(length.filter(mask).to_numpy().astype(np.int64))
    both = per_problem[True].keys() & per_problem[False].keys()
    names = {True: "correct", False: "incorrect"}
    return {
        "correct": per_problem[True].total(),
        "incorrect": per_problem[False].total(),
        "with_both_labels": len(both),
        "pairs": sum(min(per_problem[True][name], per_problem[False][name]) for name in both),
        "solutions_per_problem": {
            names[label]: _quantiles(np.asarray(list(counts.values()), dtype=np.int64))
            for label, counts in per_problem.items()
        },
        "length": {names[label]: _lengths(np.concatenate(parts)) for label, parts in lengths.items()},
        "languages": dict(languages.most_common()),
        "origins": dict(sorted(origins.items())),
    }


def _count(values: pa.Array) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(values).to_pylist()}


def _lengths(lengths: NDArray[np.int64]) -> dict[str, Any]:
    histogram = np.histogram(np.clip(lengths, 1, LENGTH_BINS[-1]), LENGTH_BINS)[0]
    return {**_quantiles(lengths), "histogram": histogram.tolist()}


def _quantiles(values: NDArray[np.int64]) -> dict[str, float]:
    if not len(values):
        return {}
    exact = {name: float(np.quantile(values, share)) for name, share in _QUANTILES.items()}
    return {"mean": round(float(values.mean()), 1), **{name: round(value, 1) for name, value in exact.items()}}
