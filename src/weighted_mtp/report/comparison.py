"""Arms of an experiment side by side: pass@k, paired differences to the first arm, and intervals that respect seeds.

Legend: S seeds, P problems. An arm's values are (S, P): pass@k of a problem in one seed's evaluation.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from weighted_mtp.data.sources.rows import read_rows
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.pass_at_k import Estimate, SampleCounts, count, pass_at_k
from weighted_mtp.report.intervals import CONFIDENCE, Values, over_seeds_and_problems
from weighted_mtp.wording import counted, near_paths

CountsOrFolder = SampleCounts | Path
"""Counts, or the folder that `wmtp evaluate --output` wrote."""

ONE_SEED = "One seed: the interval covers other problems, not other seeds."
_SOLVED = (
    "Solved at the first try: as pass@1 has it, on average over samples and seeds; both is the arm and the baseline."
)
_ELSEWHERE = (
    "checkpoint",
    "server",
    "samples",
    "partial",
    "output",
    "data_root",
    "runtime",
    "workers",
    "k",
    "sampling",
)
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
class ArmResult:
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

    base     whether only the base tests decided
    notes    what a reader has to know of the numbers
    further  differences to other arms than the baseline
    best     arm → the temperatures of its values, if each has its own
    """

    k: int
    base: bool
    problems: int
    confidence: float
    arms: tuple[ArmResult, ...]
    notes: tuple[str, ...]
    further: tuple[Further, ...] = ()
    best: Mapping[str, tuple[float, ...]] | None = None


def compare(
    arms: Mapping[str, Sequence[CountsOrFolder]],
    *,
    against: Mapping[str, str] | None = None,
    k: int = 1,
    base: bool = False,
) -> Comparison:
    """Compare arms on the same problems, each with one evaluation a seed, to the first of them.

    against  arm → another that it is compared to as well (its own shuffle)
    base     count what passed the base tests, without those that EvalPlus added

    Arms with equally many evaluations are paired by seed: the i-th of each belongs to the same seed. Intervals are
    those of `over_seeds_and_problems`.

    Raises UserError for fewer than two arms, an arm without evaluation, another benchmark or other problems in one
    evaluation than in the first, fewer than k samples of a problem, or a folder that is no evaluation.
    """
    counts, notes = _read(arms, base)
    return _compared(_values(counts, k), _values(counts, 1), against or {}, k, base, notes)


def compare_at_best(
    temperatures: Mapping[float, Mapping[str, Sequence[CountsOrFolder]]],
    *,
    against: Mapping[str, str] | None = None,
    k: int = 1,
) -> Comparison:
    """Compare arms each at the temperature that suits it best, so that an arm that is only sharper gains nothing.

    temperatures  temperature → arm → one evaluation per seed, the same arms, seeds and problems at each

    Of an arm's problems every second one is judged at the temperature at which pass@k over the other ones, on average
    over its seeds, is highest, and they in turn at the best of these: no problem chooses for itself.

    Raises UserError as `compare`.
    """
    read = {t: _read(arms, False) for t, arms in temperatures.items()}
    values, first_try = ({t: _values(counts, of) for t, (counts, _) in read.items()} for of in (k, 1))
    chosen, chosen_first_try, best = {}, {}, {}
    for name in next(iter(values.values())):
        own = {t: arms[name] for t, arms in values.items()}
        chosen[name], first = (np.empty_like(next(iter(own.values()))) for _ in range(2))
        found = []
        for judged, deciding in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
            best_t = max(own, key=lambda t: own[t][:, deciding].mean())
            chosen[name][:, judged] = own[best_t][:, judged]
            first[:, judged] = first_try[best_t][name][:, judged]
            found.append(best_t)
        chosen_first_try[name], best[name] = first, tuple(dict.fromkeys(found))
    notes = next(iter(read.values()))[1]
    comparison = _compared(chosen, chosen_first_try, against or {}, k, False, notes)
    return replace(comparison, best=best)


def _read(
    arms: Mapping[str, Sequence[CountsOrFolder]], base: bool
) -> tuple[dict[str, list[SampleCounts]], tuple[str, ...]]:
    """Counts of every arm's evaluations, and notes on what is unlike in them."""
    if len(arms) < 2:
        raise UserError(f"compare: needs at least two arms and was given {len(arms)}; the first is the baseline")
    counts = {
        name: [read_counts(evaluation, base) if isinstance(evaluation, Path) else evaluation for evaluation in arm]
        for name, arm in arms.items()
    }
    options = {e: _options(e) for arm in arms.values() for e in arm if isinstance(e, Path)}
    _check_same_benchmark(options)
    return counts, (*_unlike(counts), *_evaluated_differently([*options.values()]))


def _compared(
    values: Mapping[str, Values],
    first_try: Mapping[str, Values],
    against: Mapping[str, str],
    k: int,
    base: bool,
    unlike: Sequence[str],
) -> Comparison:
    (baseline, first), *others = values.items()
    found = [ArmResult(baseline, over_seeds_and_problems(first), _by_seed(first))]
    for name, own in others:
        found.append(
            ArmResult(
                name,
                value=over_seeds_and_problems(own),
                by_seed=_by_seed(own),
                difference=over_seeds_and_problems(own, first),
                paired=len(own) == len(first),
                solved=_solved(first_try[name], first_try[baseline]),
            )
        )
    further = tuple(
        Further(name, other, over_seeds_and_problems(values[name], values[other])) for name, other in against.items()
    )
    return Comparison(k, base, first.shape[1], CONFIDENCE, tuple(found), (*_notes(found), *unlike), further)


def _by_seed(values: Values) -> tuple[float, ...]:
    return tuple(values.mean(axis=1).tolist())


def _solved(own: Values, base: Values) -> Solved:
    """Counts from pass@1 of an arm (S, P) and of the baseline (S', P)."""
    if len(own) != len(base):
        own, base = own.mean(0, keepdims=True), base.mean(0, keepdims=True)
    pairs = (own * base, own * (1 - base), (1 - own) * base, (1 - own) * (1 - base))
    return Solved(*(float(pair.mean(0).sum()) for pair in pairs))


def read_counts(folder: Path, base: bool = False) -> dict[str, tuple[int, int]]:
    """Problem → (samples, passed) of an evaluation's folder; `base` counts those that passed at least the base tests.

    Raises UserError if it is no evaluation, not finished, or without base tests of its own.
    """
    results = folder / "results.jsonl"
    if not results.is_file() and (folder / "evaluation.json").is_file():
        raise UserError(f"{folder}: its evaluation is not finished; the same `wmtp evaluate` resumes it")
    if not results.is_file():
        raise UserError(
            f"{folder}: holds no results.jsonl; give the --output folder of `wmtp evaluate`{near_paths(folder)}"
        )
    rows = [row.values for row in read_rows(results, {"task_id": str | int, "passed": bool})]
    if base and not any("passed_base" in row for row in rows):
        raise UserError(f"{folder}: its benchmark has no tests but its own; leave --base out")
    key = "passed_base" if base else "passed"
    return count([(str(row["task_id"]).lower(), row.get(key, row["passed"])) for row in rows])


def _values(counts: Mapping[str, Sequence[SampleCounts]], k: int) -> dict[str, Values]:
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


def _check_same_problems(first: SampleCounts, own: SampleCounts, name: str) -> None:
    if first.keys() != own.keys():
        odd = sorted(first.keys() ^ own.keys())
        raise UserError(
            f"compare: {name} differs from the baseline in {counted(len(odd), 'problem')}, first {odd[0]!r}; "
            "compare evaluations of the same problems"
        )


def _notes(arms: Sequence[ArmResult]) -> list[str]:
    baseline, *others = arms
    if max(arm.seeds for arm in arms) == 1:
        return [
            _SOLVED,
            f"Intervals: over problems, paired by problem; differences to {baseline.name}.",
            ONE_SEED,
        ]
    notes = [
        _SOLVED,
        "Intervals: over seeds and problems, with Student's t quantiles; "
        f"differences to {baseline.name}, paired by problem.",
    ]
    if paired := [arm.name for arm in others if arm.paired]:
        notes.append(f"Paired by seed as well, the i-th evaluation with the baseline's i-th: {', '.join(paired)}.")
    if single := [arm.name for arm in arms if arm.seeds == 1]:
        notes.append(f"{ONE_SEED[:-1]}: {', '.join(single)}.")
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


def _unlike(counts: Mapping[str, Sequence[SampleCounts]]) -> list[str]:
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
        raise UserError(f"{folder / 'report.json'}: cannot be read; evaluate again with `wmtp evaluate`") from error
    return {name: value for name, value in config.items() if name not in _ELSEWHERE} | drawn | of_problems
