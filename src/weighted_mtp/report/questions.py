"""What a study found, ready for a page of results: one question per section, its answer, and one figure per cell."""

from collections.abc import Iterator, Mapping, Sequence

from weighted_mtp.evaluation.pass_at_k import Estimate
from weighted_mtp.report.comparison import ONE_SEED, Comparison

Row = tuple[str, Estimate, Estimate, Estimate]
"""How both arms were evaluated, pass@k of the other arm and of the one in question, and the gain."""


def as_questions(comparisons: Mapping[str, Comparison]) -> str:
    """Markdown: "Does `arm` gain over `other`?" of every arm, over the baseline and over what else it is compared to.

    comparisons  how the arms were evaluated → comparison, all of the same arms
    """
    first = next(iter(comparisons.values()))
    seeds = min(arm.seeds for arm in first.arms)
    interval = f"{100 * first.confidence:g} %"
    lines = [f"{ONE_SEED if seeds == 1 else f'{seeds} seeds.'} **Bold**: the interval of the gain excludes zero.", ""]
    for (name, other), rows in _questions(comparisons).items():
        lines += [f"## Does {name} gain over {other}?", "", _answer(rows), ""]
        lines += [f"| evaluated | {other} | {name} | gain | {interval} interval |", "|---|---:|---:|---:|---:|"]
        lines += [*map(_line, rows), ""]
    return "\n".join(lines)


def _questions(comparisons: Mapping[str, Comparison]) -> dict[tuple[str, str], list[Row]]:
    """(arm, other) → a row per comparison; over the baseline first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for title, comparison in comparisons.items():
        values = {arm.name: arm.value for arm in comparison.arms}
        for name, other, gain in _differences(comparison):
            row = (title.removeprefix("sampled "), values[other], values[name], gain)
            found.setdefault((name, other), []).append(row)
    return found


def _differences(comparison: Comparison) -> Iterator[tuple[str, str, Estimate]]:
    baseline, *others = comparison.arms
    for arm in others:
        if arm.difference is not None:
            yield arm.name, baseline.name, arm.difference
    for further in comparison.further:
        yield further.name, further.other, further.difference


def _answer(rows: Sequence[Row]) -> str:
    """`**Yes**: at temperature 1. Otherwise **not shown**.`"""
    answers = {1: "Yes", -1: "No, it loses", 0: "Not shown"}
    where = {answer: [evaluated for evaluated, _, _, gain in rows if gain.sign == s] for s, answer in answers.items()}
    *given, last = [(answer, places) for answer, places in where.items() if places]
    if not given:
        return f"**{last[0]}**{', in every comparison' if len(rows) > 1 else ''}."
    told = " ".join(f"**{answer}**: {'; '.join(places)}." for answer, places in given)
    return f"{told} Otherwise **{last[0][0].lower()}{last[0][1:]}**."


def _line(row: Row) -> str:
    evaluated, other, own, gain = row
    mark = "**" if gain.sign else ""
    interval = f"{gain.low:+.3f} to {gain.high:+.3f}"
    return f"| {evaluated} | {other.value:.3f} | {own.value:.3f} | {mark}{gain.value:+.3f}{mark} | {interval} |"
