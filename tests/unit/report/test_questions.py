"""A study's findings as questions: answers follow from intervals, and every figure is the comparison's own."""

import pytest

from weighted_mtp.report.comparison import ONE_SEED, Comparison, compare
from weighted_mtp.report.questions import as_questions

SOLVED = {"worse": 2, "uniform": 10, "same": 10, "better": 18}


def comparison(seeds: int, against: dict[str, str] | None = None, **solved: int) -> Comparison:
    """Arms that solve the first so many of 20 problems, alike in each seed."""
    found = {arm: {f"p{i}": (1, int(i < n)) for i in range(20)} for arm, n in (SOLVED | solved).items()}
    order = sorted(found, key=lambda arm: arm != "uniform")
    return compare({arm: [found[arm]] * seeds for arm in order}, against=against)


def section(page: str, arm: str, other: str = "uniform") -> list[str]:
    return page.partition(f"## Does {arm} gain over {other}?\n\n")[2].partition("\n\n## ")[0].splitlines()


@pytest.mark.parametrize(
    ("arm", "answer"),
    [("better", "**Yes**."), ("worse", "**No, it loses**."), ("same", "**Not shown**.")],
)
def test_an_answer_is_what_the_interval_says(arm: str, answer: str) -> None:
    own = comparison(3)
    page = as_questions({"sampled at temperature 1": own})
    lines = section(page, arm)
    assert lines[0] == answer
    found = next(a for a in own.arms if a.name == arm)
    gain = found.difference
    assert gain is not None
    bold = "**" if arm != "same" else ""
    assert lines[-1] == (
        f"| at temperature 1 | 0.500 | {found.value.value:.3f} | {bold}{gain.value:+.3f}{bold} "
        f"| {gain.low:+.3f} to {gain.high:+.3f} |"
    )
    assert page.startswith("3 seeds.")


def test_answers_that_differ_say_where_each_holds() -> None:
    hot, cold, both = comparison(3), comparison(3, better=10), comparison(3, better=2)
    page = as_questions({"sampled at temperature 1": hot, "sampled at temperature 0": cold, "each at its best": both})
    assert section(page, "better")[0] == (
        "**Yes**: at temperature 1. **No, it loses**: each at its best. Otherwise **not shown**."
    )
    assert section(page, "worse")[0] == "**No, it loses**, in every comparison."


def test_another_arm_than_the_baseline_is_a_question_too_and_one_seed_is_said_to_be_one() -> None:
    page = as_questions({"sampled at temperature 1": comparison(1, {"better": "same"})})
    assert section(page, "better", "same")[0] == "**Yes**."
    assert ONE_SEED in page
