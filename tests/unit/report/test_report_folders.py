"""`wmtp report` of a folder that is none: what to give instead."""

from pathlib import Path

import pytest

from weighted_mtp.errors import UserError
from weighted_mtp.pipelines.report_page import write_report_page


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("critic", "policy"):
        (tmp_path / "runs" / "mine" / name).mkdir(parents=True)
        (tmp_path / "runs" / "mine" / name / "metrics.jsonl").touch()
    (tmp_path / "runs" / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return Path("runs")


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("mine", "a training run: give one of runs/mine/critic, runs/mine/policy"),
        ("empty", "a training run: give the folder of one"),
        ("mine/polic", "no such folder; near it: runs/mine/policy"),
        ("mein/policy", "no such folder; near it: runs/mine/policy"),
    ],
)
def test_a_folder_that_is_none_is_one_line_with_those_that_are(runs: Path, folder: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        write_report_page(runs / folder, Path("page.html"))
    assert str(error.value).endswith(says)
