"""Comparison of arms against a slow, obvious bootstrap, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.pass_at_k import estimate, paired_difference
from weighted_mtp.report.comparison import (
    compare,
    comparison_markdown,
    comparison_table,
    hierarchical_interval,
    read_counts,
)


def counts(*passed: int, n: int = 1) -> dict[str, tuple[int, int]]:
    return {f"p{i}": (n, c) for i, c in enumerate(passed)}


def random_counts(seed: int, size: int = 30) -> dict[str, tuple[int, int]]:
    return counts(*np.random.default_rng(seed).integers(0, 2, size))


def slowly(values: np.ndarray, baseline: np.ndarray | None, seed: int, resamples: int) -> list[float]:
    """Every resample by itself: draw problems, draw seeds, average over what was drawn."""
    problems, seeds = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    chosen_problems = [problems.integers(values.shape[1], size=values.shape[1]) for _ in range(resamples)]
    chosen = [seeds.integers(len(values), size=len(values)) for _ in range(resamples)]
    paired = baseline is not None and len(baseline) == len(values)
    other = (
        chosen if paired or baseline is None else [seeds.integers(len(baseline), size=len(baseline)) for _ in chosen]
    )
    means = []
    for p, s, t in zip(chosen_problems, chosen, other, strict=True):
        mean = np.mean([values[i, j] for i in s for j in p])
        means.append(mean if baseline is None else mean - np.mean([baseline[i, j] for i in t for j in p]))
    return means


@pytest.mark.parametrize("baseline_seeds", [None, 3, 2], ids=["mean", "paired seeds", "unpaired seeds"])
def test_intervals_are_those_of_resampling_one_by_one(baseline_seeds: int | None) -> None:
    draw = np.random.default_rng(5)
    values = draw.random((3, 7))
    baseline = None if baseline_seeds is None else draw.random((baseline_seeds, 7))
    found = hierarchical_interval(values, baseline, seed=4, resamples=400, confidence=0.9)
    low, high = np.quantile(slowly(values, baseline, 4, 400), [0.05, 0.95])
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
    assert found.value == pytest.approx(values.mean() - (0 if baseline is None else baseline.mean()), abs=1e-12)


def test_one_seed_an_arm_is_the_paired_difference_over_problems() -> None:
    a, b = random_counts(0), random_counts(1)
    found = compare({"a": [a], "b": [b]}, seed=3).arms[1]
    assert found.difference is not None
    for own, theirs in (
        (found.difference, paired_difference(a, b, 1, seed=3)),
        (found.value, estimate(b, [1], seed=3)[1]),
    ):
        assert (own.value, own.low, own.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-12)


def test_pairing_by_seed_takes_out_what_seeds_share() -> None:
    bad, good = counts(*[0] * 20), counts(*[1] * 20)
    paired = compare({"a": [bad, good, bad], "b": [bad, good, bad]}).arms[1]
    unpaired = compare({"a": [bad, good, bad], "b": [bad, good, bad, bad]}).arms[1]
    assert (paired.paired, unpaired.paired) == (True, False)
    assert paired.difference is not None
    assert unpaired.difference is not None
    assert (paired.difference.low, paired.difference.high) == (0.0, 0.0)
    assert unpaired.difference.high - unpaired.difference.low > 0.5


def test_an_interval_over_seeds_is_wider_than_one_over_problems_alone_where_seeds_differ() -> None:
    values = np.stack([np.full(50, 0.2), np.full(50, 0.8)])
    over_both = hierarchical_interval(values, None, 0, 2000, 0.95)
    assert (over_both.low, over_both.high) == (pytest.approx(0.2), pytest.approx(0.8))


def test_flipped_problems_are_counted_each_way() -> None:
    found = compare({"a": [counts(1, 1, 0, 0, 0)], "b": [counts(1, 0, 1, 1, 0)]}).arms[1]
    assert (found.better, found.worse) == (2, 1)
    seeds = compare({"a": [counts(1, 0, 0), counts(0, 0, 1)], "b": [counts(0, 1, 0), counts(1, 1, 0)]}).arms[1]
    assert (seeds.better, seeds.worse) == (1, 1)


def test_problems_are_matched_by_name_not_by_place() -> None:
    a = random_counts(2)
    found = compare({"a": [a], "b": [dict(reversed(a.items()))]}).arms[1]
    assert found.difference is not None
    assert (found.difference.low, found.difference.high, found.better, found.worse) == (0.0, 0.0, 0, 0)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"a": [counts(1)]}, "needs at least two arms and was given 1"),
        ({"a": [counts(1)], "b": []}, "b has no evaluation; give at least one folder"),
        ({"a": [counts(1)], "b": [counts(1, 1)]}, r"b differs from the baseline in 1 problems, first 'p1'"),
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


def test_few_seeds_are_said_to_be_few() -> None:
    few = compare({"a": [counts(1, 0)] * 4, "b": [counts(1, 1)] * 4})
    enough = compare({"a": [counts(1, 0)] * 5, "b": [counts(1, 1)] * 5})
    assert any("few seeds (here 4)" in note for note in few.notes)
    assert not any("few seeds" in note for note in enough.notes)


def evaluation(folder: Path, passed: list[bool], temperature: float = 0.0) -> Path:
    folder.mkdir()
    lines = [json.dumps({"task_id": f"Micro/{i}", "passed": p}) for i, p in enumerate(passed)]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    config = {"benchmark": "micro", "output": str(folder), "sampling": {"temperature": temperature, "seed": 1}}
    (folder / "report.json").write_text(json.dumps({"config": config}))
    return folder


def test_folders_and_counts_may_be_mixed(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", [True, False])
    assert read_counts(folder) == {"micro/0": (1, 1), "micro/1": (1, 0)}
    assert compare({"a": [folder], "b": [read_counts(folder)]}).arms[1].better == 0


def test_other_sampling_is_noted_and_another_folder_is_not(tmp_path: Path) -> None:
    cold, same = evaluation(tmp_path / "a", [True]), evaluation(tmp_path / "b", [True])
    warm = evaluation(tmp_path / "c", [True], temperature=0.8)
    assert compare({"a": [cold], "b": [same]}).notes == compare({"a": [counts(1)], "b": [counts(1)]}).notes
    assert "Evaluated differently: sampling.temperature is 0.0 or 0.8." in compare({"a": [cold], "c": [warm]}).notes


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("results.jsonl", None, "holds no results.jsonl; give the --output folder"),
        ("results.jsonl", '{"task_id": "a", "passed": 1}', "column 'passed' is 1, which is not true or false"),
        ("report.json", None, "report.json: not to be read; evaluate again"),
        ("report.json", "[]", "report.json: not to be read; evaluate again"),
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
    assert "| a\\|[red] | 0.500 [0.000, 1.000] |  |  |" in text
    assert "| b (2 seeds) | 1.000 [1.000, 1.000] | +0.500 [+0.000, +1.000] | 1, 0 |" in text
    assert comparison_table(comparison).row_count == 2
