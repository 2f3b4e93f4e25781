"""Arms of an experiment side by side: pass@k, paired differences to the first arm, and intervals that respect seeds.

Legend: S seeds, P problems, R resamples. An arm's values are (S, P): pass@k of a problem in one seed's evaluation.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from weighted_mtp.data.sources.rows import read_rows
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.pass_at_k import Counts, Estimate, count, pass_at_k, without_spread

Values = NDArray[np.float64]
Evaluation = Counts | Path
"""Counts, or the folder that `wmtp evaluate --output` wrote."""

ENOUGH_SEEDS = 5
_RESAMPLES_AT_ONCE = 1000
_SOLVED = (
    "Solved at the first try: as pass@1 has it, on average over samples and seeds; both is the arm and the baseline."
)
_ELSEWHERE = ("checkpoint", "samples", "partial", "output", "data_root", "runtime", "workers", "k", "sampling")
"""Options of an evaluation that may differ between arms that are compared."""


@dataclass(frozen=True)
class Solved:
    """How many of P problems one sample of an arm solves, and one of the baseline: McNemar's four counts.

    With several samples or seeds they are expected values; paired seeds meet each other, others meet all of the
    baseline's. `(only_it − only_baseline) / P` is the difference in pass@1.
    """

    both: float
    only_it: float
    only_baseline: float
    neither: float


@dataclass(frozen=True)
class Arm:
    """One line of the comparison.

    value       mean pass@k over seeds and problems
    by_seed     (S,) pass@k of each evaluation, in the order given
    difference  to the baseline; None for the baseline itself
    paired      whether the difference is taken seed by seed
    solved      against the baseline; None for the baseline itself
    """

    name: str
    value: Estimate
    by_seed: tuple[float, ...]
    difference: Estimate | None = None
    paired: bool = True
    solved: Solved | None = None

    @property
    def seeds(self) -> int:
        return len(self.by_seed)


@dataclass(frozen=True)
class Further:
    """The difference between an arm and another that is not the baseline."""

    name: str
    other: str
    difference: Estimate


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; the first arm is the baseline.

    base     whether the base tests alone decided
    notes    what a reader has to know of the numbers
    further  differences to other arms than the baseline
    """

    k: int
    base: bool
    problems: int
    confidence: float
    arms: tuple[Arm, ...]
    notes: tuple[str, ...]
    further: tuple[Further, ...] = ()


def compare(
    arms: Mapping[str, Sequence[Evaluation]],
    *,
    against: Mapping[str, str] | None = None,
    k: int = 1,
    base: bool = False,
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Comparison:
    """Compare arms on the same problems, each with one evaluation a seed, to the first of them.

    against  arm → another that it is compared to as well (its own shuffle)
    base     count what passed the base tests, without those that EvalPlus added

    Arms with equally many evaluations are paired by seed: the i-th of each belongs to the same seed. Intervals are
    `hierarchical_interval`'s; with one seed an arm they are those of `paired_difference`, over problems alone.

    Raises UserError for fewer than two arms, an arm without evaluation, another benchmark or other problems in one
    evaluation than in the first, fewer than k samples of a problem, or a folder that is no evaluation.
    """
    if len(arms) < 2:
        raise UserError(f"compare: needs at least two arms and was given {len(arms)}; the first is the baseline")
    counts = {name: [_counts(evaluation, base) for evaluation in arm] for name, arm in arms.items()}
    options = {e: _options(e) for arm in arms.values() for e in arm if isinstance(e, Path)}
    _check_same_benchmark(options)
    values, first_try = _values(counts, k), _values(counts, 1)
    (baseline, first), *others = values.items()
    found = [Arm(baseline, hierarchical_interval(first, None, seed, resamples, confidence), _by_seed(first))]
    for name, own in others:
        found.append(
            Arm(
                name,
                value=hierarchical_interval(own, None, seed, resamples, confidence),
                by_seed=_by_seed(own),
                difference=hierarchical_interval(own, first, seed, resamples, confidence),
                paired=len(own) == len(first),
                solved=_solved(first_try[name], first_try[baseline]),
            )
        )
    notes = (*_notes(found), *_unlike(counts), *_evaluated_differently([*options.values()]))
    further = tuple(
        Further(name, other, hierarchical_interval(values[name], values[other], seed, resamples, confidence))
        for name, other in (against or {}).items()
    )
    return Comparison(k, base, first.shape[1], confidence, tuple(found), notes, further)


def _by_seed(values: Values) -> tuple[float, ...]:
    return tuple(values.mean(axis=1).tolist())


def _solved(own: Values, base: Values) -> Solved:
    """Counts from pass@1 of an arm (S, P) and of the baseline (S', P)."""
    if len(own) != len(base):
        own, base = own.mean(0, keepdims=True), base.mean(0, keepdims=True)
    pairs = (own * base, own * (1 - base), (1 - own) * base, (1 - own) * (1 - base))
    return Solved(*(float(pair.mean(0).sum()) for pair in pairs))


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
    for few seeds, and with one seed cover problems alone. What varies with seed and problem together (a sample's luck)
    is counted up to three times, as in any bootstrap of crossed factors (Owen 2007, "The pigeonhole bootstrap", Annals
    of Applied Statistics 1(2)): where that is most of the variance, intervals are too wide instead.
    """
    problems, seeds = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    paired = baseline is not None and len(baseline) == len(values)
    parts = [values] if baseline is None else [values - baseline] if paired else [values, -baseline]
    if all(np.ptp(part) == 0 for part in parts):
        value, least = float(sum(part.flat[0] for part in parts)), 0.0 if baseline is None else -1.0
        return without_spread(value, values.shape[1], least, confidence)
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


def read_counts(folder: Path, base: bool = False) -> dict[str, tuple[int, int]]:
    """Problem → (samples, passed) of an evaluation's folder; `base` counts those that passed the base tests alone.

    Raises UserError where it is no evaluation, not finished, or without base tests of its own.
    """
    results = folder / "results.jsonl"
    if not results.is_file() and (folder / "evaluation.json").is_file():
        raise UserError(f"{folder}: its evaluation is not finished; the same `wmtp evaluate` goes on with it")
    if not results.is_file():
        raise UserError(f"{folder}: holds no results.jsonl; give the --output folder of `wmtp evaluate`")
    rows = [row.values for row in read_rows(results, {"task_id": str | int, "passed": bool})]
    if base and not any("passed_base" in row for row in rows):
        raise UserError(f"{folder}: its benchmark has no tests but its own; leave --base out")
    key = "passed_base" if base else "passed"
    return count([(str(row["task_id"]).lower(), row.get(key, row["passed"])) for row in rows])


def comparison_table(comparison: Comparison) -> Group:
    """The comparison for a terminal: pass@k with differences, and which problems are solved by which arm."""
    tables = []
    for title, header, rows in _parts(comparison):
        tables.append(Table(title=title, title_justify="left"))
        for number, column in enumerate(header):
            justify: Literal["left", "right"] = "right" if number else "left"
            tables[-1].add_column(column, justify=justify, overflow="fold", no_wrap=bool(number))
        for row in rows:
            tables[-1].add_row(*map(escape, row))
    return Group(*tables)


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown tables with its notes."""
    lines = []
    for title, header, rows in _parts(comparison):
        lines += [title, "", "| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
        lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in comparison.notes)]) + "\n"


def _parts(comparison: Comparison) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, header and rows of each table."""
    interval = f"[{100 * comparison.confidence:g} %]"
    header = ("arm", f"pass@{comparison.k} {interval}", f"difference {interval}")
    tests = ", base tests alone" if comparison.base else ""
    title = f"pass@{comparison.k} on {comparison.problems:,} problems{tests}"
    yield (
        title,
        header,
        [(_name(arm), _interval(arm.value, ""), _interval(arm.difference, "+")) for arm in comparison.arms],
    )
    most = max(arm.seeds for arm in comparison.arms)
    if most > 1:
        numbers = tuple(str(number) for number in range(1, most + 1))
        by_seed = [(arm.name, *(f"{value:.3f}" for value in arm.by_seed)) for arm in comparison.arms]
        title = f"pass@{comparison.k} of each evaluation, in the order given"
        yield title, ("arm", *numbers), [(*row, *[""] * (most + 1 - len(row))) for row in by_seed]
    solved = [(_name(arm), *map(_number, astuple(arm.solved))) for arm in comparison.arms if arm.solved is not None]
    if comparison.further:
        yield (
            "further differences",
            ("arm", "to", f"difference {interval}"),
            [(own.name, own.other, _interval(own.difference, "+")) for own in comparison.further],
        )
    yield "problems solved at the first try, by", ("arm", "both", "only it", "only the baseline", "neither"), solved


def _name(arm: Arm) -> str:
    return arm.name if arm.seeds == 1 else f"{arm.name} ({arm.seeds} seeds)"


def _interval(estimate: Estimate | None, sign: str) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _number(value: float) -> str:
    """A count, or an expected value of one."""
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-9 else f"{value:,.1f}"


def _counts(evaluation: Evaluation, base: bool) -> Counts:
    return read_counts(evaluation, base) if isinstance(evaluation, Path) else evaluation


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
        return [_SOLVED, f"Intervals: bootstrap over problems, paired by problem; differences to {baseline.name}."]
    notes = [
        _SOLVED,
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


def _check_same_benchmark(options: Mapping[Path, Mapping[str, Any]]) -> None:
    named = {folder: f"{own.get('benchmark')}/{own.get('split')}" for folder, own in options.items()}
    for folder, name in named.items():
        first = next(iter(named))
        if name != named[first]:
            raise UserError(
                f"compare: {folder} is an evaluation on {name} and {first} one on {named[first]}; "
                "compare evaluations on the same benchmark and split"
            )


def _unlike(counts: Mapping[str, Sequence[Counts]]) -> list[str]:
    """A note where evaluations have other numbers of samples."""
    numbers = sorted({n for arm in counts.values() for own in arm for n, _ in own.values()})
    if len(numbers) < 2:
        return []
    return [f"Evaluated differently: a problem has {numbers[0]:,} to {numbers[-1]:,} samples."]


def _evaluated_differently(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Options in which the evaluations differ, though they should not."""
    notes = []
    for name in dict.fromkeys(name for own in options for name in own):
        found = list(dict.fromkeys(str(own.get(name)) for own in options))
        if len(found) > 1:
            notes.append(f"Evaluated differently: {name} is {' or '.join(found)}.")
    return notes


def _options(folder: Path) -> dict[str, Any]:
    """What the result of an evaluation depends on beside the samples, from `report.json`."""
    try:
        report = json.loads((folder / "report.json").read_text())
        config = report["config"]
        drawn = {
            f"sampling.{name}": value
            for name, value in config["sampling"].items()
            if name not in ("seed", "n_samples", "batch_size")
        }
        of_problems = {"problems_sha256": report.get("problems_sha256")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'report.json'}: not to be read; evaluate again with `wmtp evaluate`") from error
    return {name: value for name, value in config.items() if name not in _ELSEWHERE} | drawn | of_problems
