"""Curves of several runs: what is averaged, and what is refused."""

import json
from pathlib import Path

import pytest

from weighted_mtp.errors import UserError
from weighted_mtp.report.curves import mean_line, plot_curves


def run(folder: Path, values: dict[int, float]) -> Path:
    folder.mkdir(parents=True)
    records = [
        {"step": step, "split": "validation", "loss": value, "ce/head1": value} for step, value in values.items()
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_the_mean_is_over_the_steps_that_all_seeds_have() -> None:
    assert mean_line([{2: 1.0, 1: 4.0, 3: 9.0}, {1: 2.0, 2: 3.0}]) == {1: 3.0, 2: 2.0}


def test_curves_of_arms_and_seeds_become_a_picture(tmp_path: Path) -> None:
    arms = {
        "uniform": [run(tmp_path / f"u{i}", {0: 3.0, 10: 2.0 - i}) for i in range(2)],
        "one seed": [run(tmp_path / "v", {0: 3.0, 10: 1.0})],
    }
    path = plot_curves(arms, "ce/head1", tmp_path / "new" / "curves.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_an_unknown_metric_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no validation record has the metric ce/head2; the nearest is ce/head1"):
        plot_curves({"a": [run(tmp_path / "a", {0: 1.0})]}, "ce/head2", tmp_path / "curves.png")


def test_a_run_without_records_of_the_split_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no train record has the metric loss; it has none at all"):
        plot_curves({"a": [run(tmp_path / "a", {0: 1.0})]}, "loss", tmp_path / "curves.png", split="train")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no metrics\.jsonl; give the folder of a run"):
        plot_curves({"a": [tmp_path]}, "loss", tmp_path / "curves.png")
