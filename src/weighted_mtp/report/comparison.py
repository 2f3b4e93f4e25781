"""Arms of an experiment side by side: pass@k, paired differences to the first arm, and intervals that respect seeds.

Legend: S seeds, P problems, R resamples. An arm's values are (S, P): pass@k of a problem in one seed's evaluation.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from weighted_mtp.data.sources.rows import read_rows
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.pass_at_k import Counts, Estimate, count, pass_at_k

Values = NDArray[np.float64]
Evaluation = Counts | Path
"""Counts, or the folder that `wmtp evaluate --output` wrote."""

ENOUGH_SEEDS = 5
_RESAMPLES_AT_ONCE = 1000
_FLIPPED = "Better, worse: problems whose pass@k, averaged over seeds, is above and below the baseline's."
_ELSEWHERE = ("checkpoint", "samples", "output", "data_root", "runtime", "workers")
"""Options of an evaluation that may differ between arms that are compared."""


@dataclass(frozen=True)
class Arm:
    """One line of the comparison.

    value       mean pass@k over seeds and problems
    difference  to the baseline; None for the baseline itself
    paired      whether the difference is taken seed by seed
    better      problems whose pass@k, averaged over seeds, is above the baseline's
    worse       and below it
    """

    name: str
    seeds: int
    value: Estimate
    difference: Estimate | None = None
    paired: bool = True
    better: int = 0
    worse: int = 0


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; the first arm is the baseline. `notes` say what a reader has to know of the numbers."""

    k: int
    problems: int
    confidence: float
    arms: tuple[Arm, ...]
    notes: tuple[str, ...]


def compare(
    arms: Mapping[str, Sequence[Evaluation]],
    *,
    k: int = 1,
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Comparison:
    """Compare arms on the same problems, each with one evaluation a seed, to the first of them.

    Arms with equally many evaluations are paired by seed: the i-th of each belongs to the same seed. Intervals are
    `hierarchical_interval`'s; with one seed an arm they are those of `paired_difference`, over problems alone.

    Raises UserError for fewer than two arms, an arm without evaluation, other problems in one evaluation than in the
    first, fewer than k samples of a problem, or a folder that is no evaluation.
    """
    if len(arms) < 2:
        raise UserError(f"compare: needs at least two arms and was given {len(arms)}; the first is the baseline")
    counts = {name: [_counts(evaluation) for evaluation in arm] for name, arm in arms.items()}
    values = _values(counts, k)
    (baseline, base), *others = values.items()
    found = [Arm(baseline, len(base), hierarchical_interval(base, None, seed, resamples, confidence))]
    for name, own in others:
        change = own.mean(0) - base.mean(0)
        found.append(
            Arm(
                name,
                len(own),
                value=hierarchical_interval(own, None, seed, resamples, confidence),
                difference=hierarchical_interval(own, base, seed, resamples, confidence),
                paired=len(own) == len(base),
                better=int((change > 0).sum()),
                worse=int((change < 0).sum()),
            )
        )
    folders = [e for arm in arms.values() for e in arm if isinstance(e, Path)]
    return Comparison(k, base.shape[1], confidence, tuple(found), (*_notes(found), *_unlike(folders)))


def hierarchical_interval(
    values: Values, baseline: Values | None, seed: int, resamples: int, confidence: float
) -> Estimate:
    """Mean of `values`, or of `values − baseline`, with a percentile bootstrap over seeds, then problems.

    values    (S, P)
    baseline  (S', P), the same problems in the same order

    A resample draws S seeds with replacement, then P problems with replacement, and averages over what was drawn.
    The problems are the same for every seed, so all drawn seeds (and both arms) share one draw of problems: a problem
    that is easy for one seed is easy for the next, and drawing afresh for each seed would hide that. If S = S', both
    arms share the draw of seeds as well; otherwise each draws its own.

    The variance over S seeds that resampling sees is (S − 1)/S of the unbiased one, so that intervals are too narrow
    for few seeds, and with one seed cover problems alone.
    """
    problems, seeds = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    paired = baseline is not None and len(baseline) == len(values)
    parts = [values] if baseline is None else [values - baseline] if paired else [values, -baseline]
    means = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        rows = min(_RESAMPLES_AT_ONCE, resamples - start)
        problem_shares = _drawn_shares(problems, rows, values.shape[1])
        means.append(
            sum(((_drawn_shares(seeds, rows, len(part)) @ part) * problem_shares).sum(axis=1) for part in parts)
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Estimate(float(sum(part.mean() for part in parts)), float(low), float(high), confidence)


def _drawn_shares(generator: np.random.Generator, rows: int, size: int) -> Values:
    """(rows, size): how often each of `size` things is among `size` draws with replacement, as shares that add to 1."""
    draws = generator.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
    return np.bincount(draws.ravel(), minlength=rows * size).reshape(rows, size) / size


def read_counts(folder: Path) -> dict[str, tuple[int, int]]:
    """Problem → (samples, passed) of an evaluation's folder. Raises UserError where it is none."""
    results = folder / "results.jsonl"
    if not results.is_file():
        raise UserError(f"{folder}: holds no results.jsonl; give the --output folder of `wmtp evaluate`")
    rows = read_rows(results, {"task_id": str | int, "passed": bool})
    return count([(str(row["task_id"]).lower(), row["passed"]) for row in rows])


def comparison_table(comparison: Comparison) -> Table:
    """The comparison for a terminal."""
    table = Table(title=f"pass@{comparison.k} on {comparison.problems:,} problems", title_justify="left")
    for number, column in enumerate(_header(comparison)):
        table.add_column(
            column.replace(", ", ",\n"), justify="right" if number else "left", overflow="fold", no_wrap=bool(number)
        )
    for arm in comparison.arms:
        table.add_row(*(escape(cell) for cell in _cells(arm)))
    return table


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown table with its notes."""
    header = _header(comparison)
    lines = [
        f"pass@{comparison.k} on {comparison.problems:,} problems",
        "",
        "| " + " | ".join(header) + " |",
        "|---" + "|---:" * (len(header) - 1) + "|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in _cells(arm)) + " |" for arm in comparison.arms]
    return "\n".join([*lines, "", *(f"- {note}" for note in comparison.notes)]) + "\n"


def _header(comparison: Comparison) -> tuple[str, ...]:
    interval = f"[{100 * comparison.confidence:g} %]"
    return "arm", f"pass@{comparison.k} {interval}", f"difference {interval}", "better, worse"


def _cells(arm: Arm) -> tuple[str, ...]:
    value, difference = arm.value, arm.difference
    name = arm.name if arm.seeds == 1 else f"{arm.name} ({arm.seeds} seeds)"
    own = (name, f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]")
    if difference is None:
        return *own, "", ""
    changed = f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    return *own, changed, f"{arm.better:,}, {arm.worse:,}"


def _counts(evaluation: Evaluation) -> Counts:
    return read_counts(evaluation) if isinstance(evaluation, Path) else evaluation


def _values(counts: Mapping[str, Sequence[Counts]], k: int) -> dict[str, Values]:
    """(S, P) of every arm, problems in the order of the first evaluation."""
    first = next((arm[0] for arm in counts.values() if arm), {})
    values = {}
    for name, arm in counts.items():
        if not arm:
            raise UserError(f"compare: {name} has no evaluation; give at least one folder")
        for number, own in enumerate(arm, start=1):
            _check_same_problems(first, own, name if len(arm) == 1 else f"{name} (evaluation {number})")
        values[name] = np.array([[pass_at_k(*own[problem], k) for problem in first] for own in arm])
    return values


def _check_same_problems(first: Counts, own: Counts, name: str) -> None:
    if first.keys() != own.keys():
        odd = sorted(first.keys() ^ own.keys())
        raise UserError(
            f"compare: {name} differs from the baseline in {len(odd)} problems, first {odd[0]!r}; "
            "compare evaluations of the same problems"
        )


def _notes(arms: Sequence[Arm]) -> list[str]:
    baseline, *others = arms
    fewest = min(arm.seeds for arm in arms)
    if max(arm.seeds for arm in arms) == 1:
        return [_FLIPPED, f"Intervals: bootstrap over problems, paired by problem; differences to {baseline.name}."]
    notes = [
        _FLIPPED,
        "Intervals: bootstrap over seeds, then over problems, which all seeds share; "
        f"differences to {baseline.name}, paired by problem.",
    ]
    if paired := [arm.name for arm in others if arm.paired]:
        notes.append(f"Paired by seed as well, the i-th evaluation with the baseline's i-th: {', '.join(paired)}.")
    if fewest < ENOUGH_SEEDS:
        notes.append(
            f"Intervals of few seeds (here {fewest}) are too narrow: resampling cannot show what it never saw."
        )
    return notes


def _unlike(folders: Sequence[Path]) -> list[str]:
    """Options in which the evaluations differ, though they should not."""
    options = [_options(folder) for folder in folders]
    notes = []
    for name in dict.fromkeys(name for own in options for name in own):
        found = list(dict.fromkeys(str(own.get(name)) for own in options))
        if len(found) > 1:
            notes.append(f"Evaluated differently: {name} is {' or '.join(found)}.")
    return notes


def _options(folder: Path) -> dict[str, Any]:
    """The options of an evaluation that its result depends on, from `report.json`."""
    try:
        config = json.loads((folder / "report.json").read_text())["config"]
        sampling = {f"sampling.{name}": value for name, value in config.pop("sampling").items() if name != "seed"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'report.json'}: not to be read; evaluate again with `wmtp evaluate`") from error
    return {name: value for name, value in config.items() if name not in _ELSEWHERE} | sampling
