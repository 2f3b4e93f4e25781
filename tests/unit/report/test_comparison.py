"""Arms side by side: differences, notes, findings, and what is refused."""

import io
import itertools
import json
import re
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.pass_at_k import estimate, without_spread
from weighted_mtp.report.comparison import (
    ONE_SEED,
    Solved,
    compare,
    compare_at_best,
    read_counts,
)
from weighted_mtp.report.comparison_page import comparison_markdown, comparison_table, finding, plot_comparisons


def counts(*passed: int, n: int = 1) -> dict[str, tuple[int, int]]:
    return {f"p{i}": (n, c) for i, c in enumerate(passed)}


def random_counts(seed: int, size: int = 30) -> dict[str, tuple[int, int]]:
    return counts(*np.random.default_rng(seed).integers(0, 2, size))


def test_pairing_by_seed_takes_out_what_seeds_share() -> None:
    bad, good = counts(*[0] * 20), counts(*[1] * 20)
    paired = compare({"a": [bad, good, bad], "b": [bad, good, bad]}).arms[1]
    unpaired = compare({"a": [bad, good, bad], "b": [bad, good, bad, bad]}).arms[1]
    assert (paired.paired, unpaired.paired) == (True, False)
    assert paired.difference is not None
    assert unpaired.difference is not None
    widths = [own.high - own.low for own in (paired.difference, unpaired.difference)]
    assert (paired.difference.value, widths[0] < 0.4, widths[1] > 0.5) == (0.0, True, True)


@pytest.mark.parametrize("passed", [0, 1])
@pytest.mark.parametrize("seeds", [1, 3])
def test_arms_that_solve_nothing_or_everything_have_intervals_like_any_other(passed: int, seeds: int) -> None:
    arm = [counts(*[passed] * 20)] * seeds
    baseline, other = compare({"a": arm, "b": arm}).arms
    assert baseline.value == estimate(arm[0], [1])[1]
    assert baseline.value.high - baseline.value.low > 0.1
    assert other.difference == without_spread(0.0, 20, -1.0, 0.95)


def test_problems_are_counted_by_which_of_two_arms_solves_them() -> None:
    found = compare({"a": [counts(1, 1, 0, 0, 0, 0)], "b": [counts(1, 0, 1, 1, 0, 0)]}).arms[1]
    assert found.solved == Solved(both=1, only_it=2, only_baseline=1, neither=2)


@pytest.mark.parametrize("seeds", [(2, 2), (1, 3)], ids=["paired", "unpaired"])
def test_counts_of_solved_problems_are_those_of_meeting_every_sample_with_every_other(seeds: tuple[int, int]) -> None:
    draw = np.random.default_rng(3)
    (a, b), size = [[draw.integers(0, 4, 6).tolist() for _ in range(number)] for number in seeds], 3
    tally = np.zeros((2, 2))
    meetings = [*zip(a, b, strict=True)] if len(a) == len(b) else [(x, y) for x in a for y in b]
    for x, y in meetings:
        for own, base in zip(y, x, strict=True):
            for i, j in itertools.product(range(size), repeat=2):
                tally[int(i < own), int(j < base)] += 1 / size**2 / len(meetings)
    arms = {name: [counts(*passed, n=size) for passed in arm] for name, arm in (("a", a), ("b", b))}
    for k in (1, 2):  # they are of the first try, whatever k
        found = compare(arms, k=k).arms[1]
        assert found.solved is not None
        assert astuple(found.solved) == pytest.approx((tally[1, 1], tally[1, 0], tally[0, 1], tally[0, 0]))
    found = compare(arms).arms[1]
    assert found.difference is not None
    assert (tally[1, 0] - tally[0, 1]) / 6 == pytest.approx(found.difference.value)


def test_an_arm_is_compared_to_another_than_the_baseline_as_that_one_would_as_the_baseline() -> None:
    arms = {name: [random_counts(n), random_counts(n + 10)] for n, name in enumerate(("a", "b", "c"))}
    found = compare(arms, against={"c": "b"})
    (own,) = found.further
    assert (own.name, own.other) == ("c", "b")
    assert own.difference == compare({"b": arms["b"], "c": arms["c"]}).arms[1].difference
    assert own.difference != found.arms[2].difference
    assert f"| c | b | {own.difference.value:+.3f} [" in comparison_markdown(found)
    assert "further differences" not in comparison_markdown(compare(arms))


def test_each_seed_has_a_number_of_its_own() -> None:
    found = compare({"a": [counts(1, 0), counts(1, 1)], "b": [counts(0, 0)]})
    assert [arm.by_seed for arm in found.arms] == [(0.5, 1.0), (0.0,)]
    assert "| a | 0.500 | 1.000 |\n| b | 0.000 |  |" in comparison_markdown(found)
    assert "of each evaluation" not in comparison_markdown(compare({"a": [counts(1)], "b": [counts(0)]}))


def test_problems_are_matched_by_name_not_by_place() -> None:
    a = random_counts(2)
    found = compare({"a": [a], "b": [dict(reversed(a.items()))]}).arms[1]
    assert found.difference == without_spread(0.0, len(a), -1.0, 0.95)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"a": [counts(1)]}, "needs at least two arms and was given 1"),
        ({"a": [counts(1)], "b": []}, "b has no evaluation; give at least one folder"),
        ({"a": [counts(1)], "b": [counts(1, 1)]}, r"b differs from the baseline in 1 problem, first 'p1'"),
        ({"a": [counts(1)], "b": [counts(1), counts(1, 1)]}, r"b \(evaluation 2\) differs from the baseline"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(arms: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        compare(arms)
    assert "\n" not in str(caught.value)


def test_a_k_above_the_samples_is_refused() -> None:
    with pytest.raises(UserError, match="pass@3: needs 3 samples of every problem and there are 2"):
        compare({"a": [counts(1, n=2)], "b": [counts(1, n=2)]}, k=3)


def test_one_seed_is_said_to_say_nothing_of_the_method() -> None:
    one, two, mixed = (
        compare({"a": [counts(1, 0)] * a, "b": [counts(1, 1)] * b}).notes for a, b in ((1, 1), (2, 2), (1, 2))
    )
    assert ONE_SEED in one
    assert not any("One seed" in note for note in two)
    assert f"{ONE_SEED[:-1]}: a." in mixed


def test_each_arm_is_judged_at_the_temperature_that_other_problems_choose() -> None:
    """`sharp` solves at temperature 1 what `uniform` solves at 0.2; `odd` is best at 1 on every second problem."""
    hot = {"uniform": [counts(0, 0, 0, 0)] * 2, "sharp": [counts(1, 1, 0, 1)] * 2, "odd": [counts(1, 0, 1, 0)] * 2}
    cold = {"uniform": [counts(1, 1, 0, 1)] * 2, "sharp": [counts(1, 1, 0, 1)] * 2, "odd": [counts(0, 1, 0, 1)] * 2}
    found = compare_at_best({1.0: hot, 0.2: cold}, against={"odd": "sharp"})
    assert found.best == {"uniform": (0.2,), "sharp": (1.0,), "odd": (0.2, 1.0)}
    values = {arm.name: arm.value.value for arm in found.arms}
    assert values == {"uniform": 0.75, "sharp": 0.75, "odd": 0.0}, "what chose for itself would have solved all"
    assert found.arms[1].difference is not None
    assert found.arms[1].difference.value == 0
    assert found.further[0].difference.value == -0.75
    text = comparison_markdown(found)
    assert "| 0.2 or 1 |" in text
    assert compare(hot).arms[1].difference.value == 0.75  # type: ignore[union-attr]


def test_what_was_found_is_said_by_the_intervals() -> None:
    draw = np.random.default_rng(0)
    good, bad, coin = (
        [counts(*(draw.random(60) < share).astype(int)) for _ in range(3)] for share in (0.95, 0.05, 0.5)
    )
    base = [counts(*(draw.random(60) < 0.5).astype(int)) for _ in range(3)]
    found = compare({"uniform": base, "good": good, "bad": bad, "coin": coin}, against={"good": "coin"})
    text = finding(found)
    expected = (
        r"pass@1: good \(\+0\.389 \[\+0\.250, \+0\.528\]\) is above uniform; bad \(.*\) is below it; "
        r"coin \(.*\) is not distinguishable from it\. good \(.*\) is above coin\. Over 3 seeds\."
    )
    assert re.fullmatch(expected, text), text
    assert finding(compare({"a": base[:1], "b": good[:1]})).endswith(ONE_SEED)
    many = compare({"uniform": base, "good": good, **dict.fromkeys("abcd", coin)})
    text = finding(many)
    assert "good (+0.389" in text
    assert "; a, b, c and d are not distinguishable from it. " in text, "of many, only the names"


def test_the_figure_has_a_panel_a_comparison_and_a_line_an_arm(tmp_path: Path) -> None:
    arms = {name: [random_counts(n), random_counts(n + 10)] for n, name in enumerate(("a", "b", "c"))}
    file = plot_comparisons({"hot": compare(arms), "cold": compare(arms)}, tmp_path / "figure.svg")
    text = file.read_text()
    for words in ("hot", "cold", "pass@1 above a"):
        assert f"<!-- {words}" in text
    assert text.count("<!-- b -->") == 1, "panels share their arms' names"


def evaluation(folder: Path, passed: list[bool], temperature: float = 0.0, **more: object) -> Path:
    folder.mkdir()
    lines = [json.dumps({"task_id": f"Micro/{i}", "passed": p}) for i, p in enumerate(passed)]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    config = {"benchmark": "micro", "output": str(folder), "sampling": {"temperature": temperature, "seed": 1}} | more
    (folder / "report.json").write_text(json.dumps({"config": config, "problems_sha256": more.get("problems_sha256")}))
    return folder


def test_folders_and_counts_may_be_mixed(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", [True, False])
    assert read_counts(folder) == {"micro/0": (1, 1), "micro/1": (1, 0)}
    assert compare({"a": [folder], "b": [read_counts(folder)]}).arms[1].solved == Solved(1, 0, 0, 1)


def test_other_sampling_is_noted_and_another_folder_is_not(tmp_path: Path) -> None:
    cold, same = evaluation(tmp_path / "a", [True]), evaluation(tmp_path / "b", [True])
    warm = evaluation(tmp_path / "c", [True], temperature=0.8)
    assert compare({"a": [cold], "b": [same]}).notes == compare({"a": [counts(1)], "b": [counts(1)]}).notes
    assert "Evaluated differently: sampling.temperature is 0.0 or 0.8." in compare({"a": [cold], "c": [warm]}).notes


def test_base_tests_alone_can_be_compared(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", [True, False, False])
    with pytest.raises(UserError, match="a: its benchmark has no tests but its own; leave --base out"):
        read_counts(folder, base=True)
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for row, passed_base in zip(rows[:2], [True, True], strict=True):  # the third problem has no other tests
        row["passed_base"] = passed_base
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [c for _, c in read_counts(folder).values()] == [1, 0, 0]
    assert [c for _, c in read_counts(folder, base=True).values()] == [1, 1, 0]
    found = compare({"a": [folder], "b": [folder]}, base=True)
    assert found.arms[0].value.value == pytest.approx(2 / 3)
    assert "pass@1 on 3 problems, base tests only" in comparison_markdown(found)


def test_other_numbers_of_samples_and_other_tests_are_noted(tmp_path: Path) -> None:
    a, b = (evaluation(tmp_path / name, [True], problems_sha256=name) for name in "ab")
    assert "Evaluated differently: problems_sha256 is a or b." in compare({"a": [a], "b": [b]}).notes
    found = compare({"a": [counts(1, n=1)], "b": [counts(1, n=5)]})
    assert "Evaluated differently: a problem has 1 to 5 samples." in found.notes


@pytest.mark.parametrize("other", [{"benchmark": "humaneval"}, {"split": "validation"}])
def test_another_benchmark_is_refused_though_the_problems_have_the_same_names(tmp_path: Path, other: dict) -> None:
    a, b = evaluation(tmp_path / "a", [True]), evaluation(tmp_path / "b", [True], **other)
    with pytest.raises(UserError, match=r"compare: .*b is an evaluation on .*; compare evaluations on the same"):
        compare({"a": [a], "b": [b]})


def test_an_unfinished_evaluation_is_told_from_none(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(UserError, match="its evaluation is not finished; the same `wmtp evaluate` resumes it"):
        read_counts(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("results.jsonl", None, "holds no results.jsonl; give the --output folder"),
        ("results.jsonl", '{"task_id": "a", "passed": 1}', "column 'passed' is 1, which is not true or false"),
        ("report.json", None, "report.json: cannot be read; evaluate again"),
        ("report.json", "[]", "report.json: cannot be read; evaluate again"),
    ],
)
def test_a_damaged_evaluation_is_refused(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    folder = evaluation(tmp_path / "a", [True])
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(UserError, match=message):
        compare({"a": [folder], "b": [folder]})


def test_the_tables_hold_every_arm_and_text_stays_text() -> None:
    comparison = compare({"a|[red]": [counts(1, 0)], "b": [counts(1, 1)] * 2})
    text = comparison_markdown(comparison)
    assert "| a\\|[red] | 0.500 [0.000, 1.000] |  |" in text
    assert "| b (2 seeds) | 1.000 [0.342, 1.000] | +0.500 [-1.000, +1.000] |" in text
    assert "| b (2 seeds) | 1 | 1 | 0 | 0 |" in text
    console = Console(width=80, file=io.StringIO())
    console.print(comparison_table(comparison))
    shown = console.file.getvalue()
    for cell in ("a|[red]", "b (2 seeds)", "+0.500 [-1.000, +1.000]", "only the baseline"):
        assert cell in shown
