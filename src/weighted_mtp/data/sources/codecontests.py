"""CodeContests (Li et al. 2022, arXiv 2203.07814): contest problems with correct and incorrect human programs.

Other sources of such pairs come in the same columns: see `registry.py`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weighted_mtp.data.schema import Entry, Problem, Solution, TestCase, Visibility
from weighted_mtp.data.sources.rows import DEFAULT, Columns, Reading, SourceRow, read_rows, unix
from weighted_mtp.errors import UserError

LANGUAGES = ("unknown", "python2", "cpp", "python3", "java")
"""By upstream's number."""

_PLATFORMS = ("unknown", "codechef", "codeforces", "hackerearth", "codejam", "atcoder", "aizu")
_SPOKEN = {"codechef": "CodeChef", "codeforces": "Codeforces", "hackerearth": "HackerEarth", "codejam": "Code Jam",
           "atcoder": "AtCoder", "aizu": "Aizu", "unknown": "Contest"}  # fmt: skip
_APPS_DIFFICULTIES = ("introductory", "interview", "competition")
_VISIBILITIES: tuple[Visibility, ...] = ("public", "private", "generated")
_COLUMNS: Columns = {
    "name": str,
    "description": str | None,
    "public_tests": dict | None,
    "private_tests": dict | None,
    "generated_tests": dict | None,
    "source": int,
    "difficulty": int | None,
    "solutions": dict,
    "incorrect_solutions": dict,
    "cf_rating": int | None,
    "time_limit": dict | None,
    "memory_limit_bytes": int | None,
    "input_file": str | None,
    "output_file": str | None,
    # not upstream's
    "solutions_origin": list | None,
    "incorrect_solutions_origin": list | None,
    "apps_difficulty": str | None,
}


def read(path: Path, reading: Reading = DEFAULT, origin: str = "human") -> Iterator[Entry]:
    """Problems with their correct and incorrect solutions in the chosen languages, in upstream's order.

    origin  of solutions whose row does not say it

    A problem is named by dataset, platform and name, as two platforms may share a name. Zero and null are upstream's
    "unknown" for difficulty, rating and limits. A file whose rows are not of one split is parted by a hash of the
    problem's name, 80 % train, 10 % validation, 10 % test.

    Dropped, and counted: problems that read or write a named file (the sandbox offers standard input and output
    alone), solutions in other languages, longer than the limit, repeated within the problem, and programs that are
    labelled both correct and incorrect.

    Raises UserError as `read_rows`, or for lists of tests or solutions that do not match.
    """
    for row in read_rows(path, _COLUMNS, reading.on_bytes, reading.group):
        yield _entry(row, reading, origin)


def _entry(row: SourceRow, reading: Reading, origin: str = "human") -> Entry:
    """What `read` makes of a row. Raises UserError for lists of tests or solutions that do not match."""
    problem = _problem(row, reading)
    left_out = "problem that reads or writes a named file" if row["input_file"] or row["output_file"] else ""
    dropped: Counter[str] = Counter()
    found = [
        solution
        for label in ("solutions", "incorrect_solutions")
        for solution in _solutions(row, label, problem, reading, origin, dropped)
    ]
    return Entry(problem, _consistent(found, dropped), row.where, dropped, left_out)


def _problem(row: SourceRow, reading: Reading) -> Problem:
    platform = _PLATFORMS[row["source"]] if row["source"] in range(len(_PLATFORMS)) else _PLATFORMS[0]
    name = row["name"]
    description = unix(row["description"] or "").strip()
    return Problem(
        problem_id=f"{reading.dataset or 'codecontests'}/{platform}/{name}",
        source=reading.dataset or "codecontests",
        split=reading.split or hashed_split(name),
        description=description or f"{_SPOKEN[platform]} task {name} (its statement is not in the dataset)",
        difficulty=_difficulty(row),
        rating=row["cf_rating"] or None,
        tests=tuple(test for visibility in _VISIBILITIES for test in _tests(row, visibility)),
        time_limit=_seconds(row["time_limit"] or {}),
        memory_limit=row["memory_limit_bytes"] or None,
    )


def _seconds(limit: dict[str, int]) -> float | None:
    return (limit.get("seconds") or 0) + (limit.get("nanos") or 0) * 1e-9 or None


def hashed_split(name: str) -> str:
    percent = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100
    return "test" if percent < 10 else "validation" if percent < 20 else "train"


def _difficulty(row: SourceRow) -> int:
    if row["apps_difficulty"] in _APPS_DIFFICULTIES:
        return _APPS_DIFFICULTIES.index(row["apps_difficulty"])
    return row["difficulty"] or -1


def _tests(row: SourceRow, visibility: Visibility) -> Iterator[TestCase]:
    tests = row[f"{visibility}_tests"] or {"input": [], "output": []}
    for given, expected in _matched(row, f"{visibility}_tests", tests, {"input": str, "output": str}):
        yield TestCase("stdio", unix(given), unix(expected), visibility)


def _solutions(
    row: SourceRow, label: str, problem: Problem, reading: Reading, origin: str, dropped: Counter[str]
) -> Iterator[Solution]:
    """Solutions of one label that are not too long and in a chosen language, each program once."""
    is_correct = label == "solutions"
    kind = "correct" if is_correct else "incorrect"
    columns = {**row[label], "origin": row[f"{label}_origin"] or [origin] * len(row[label].get("solution") or ())}
    programs = _matched(row, label, columns, {"language": int, "solution": str, "origin": str})
    seen = set()
    for number, (language, program, of) in enumerate(programs):
        name, code = LANGUAGES[language] if language in range(len(LANGUAGES)) else LANGUAGES[0], unix(program)
        if name not in reading.languages:
            dropped["solution in another language"] += 1
        elif len(code) > reading.max_solution_characters:
            dropped[f"solution longer than {reading.max_solution_characters} characters"] += 1
        elif (name, code) in seen:
            dropped["solution repeated in its problem"] += 1
        else:
            seen.add((name, code))
            solution_id = f"{problem.problem_id}/{kind}/{number}"
            yield Solution(solution_id, problem.problem_id, code, is_correct, name, of)


def _matched(row: SourceRow, column: str, values: dict[str, Any], kinds: dict[str, type]) -> Iterator[tuple[Any, ...]]:
    """The items of parallel lists, side by side."""
    lists: list[Any] = [values.get(name) for name in kinds]
    if not all(isinstance(items, list) for items in lists) or len({len(items or ()) for items in lists}) > 1:
        raise UserError(
            f"{row.where}: column {column!r} must hold {', '.join(kinds)} as lists of one length; "
            "give the file in its upstream form"
        )
    for items, (name, kind) in zip(lists, kinds.items(), strict=True):
        for item in items:
            if not isinstance(item, kind):
                raise UserError(
                    f"{row.where}: column {column!r} has {str(item)[:40]!r} among {name!r}, which is no "
                    f"{kind.__name__}; give the file in its upstream form"
                )
    return zip(*lists, strict=True)


def _consistent(solutions: list[Solution], dropped: Counter[str]) -> list[Solution]:
    """The solutions without those whose program has both labels."""
    verdicts: dict[tuple[str, str], set[bool]] = {}
    for solution in solutions:
        verdicts.setdefault((solution.language, solution.code), set()).add(solution.is_correct)
    kept = [s for s in solutions if len(verdicts[s.language, s.code]) == 1]
    if len(kept) < len(solutions):
        dropped["solution labelled both correct and incorrect"] += len(solutions) - len(kept)
    return kept
