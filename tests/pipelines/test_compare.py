"""`wmtp compare` as a user types it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from weighted_mtp.cli import app
from weighted_mtp.errors import UserError
from weighted_mtp.pipelines.compare import named_arms


def evaluation(folder: Path, passed: str) -> Path:
    """An evaluation's folder; a letter a problem, `1` where it passed."""
    folder.mkdir(parents=True)
    lines = [json.dumps({"task_id": f"micro/{i}", "passed": p == "1"}) for i, p in enumerate(passed)]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "report.json").write_text(json.dumps({"config": {"benchmark": "micro", "sampling": {}}}))
    return folder


def wmtp(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["compare", *(str(argument) for argument in arguments)])


def test_two_evaluations_are_compared_and_written(tmp_path: Path) -> None:
    a, b = evaluation(tmp_path / "a" / "ev", "1100"), evaluation(tmp_path / "b" / "ev", "1111")
    result = wmtp(a, b, "--output", tmp_path / "new" / "table.md")
    assert result.exit_code == 0, result.output
    assert "+0.500" in result.stdout
    text = (tmp_path / "new" / "table.md").read_text()
    assert "| a/ev | 0.500 [" in text
    assert "| b/ev | 1.000 [0.510, 1.000] | +0.500 [" in text
    assert text.count("| b/ev | 2 | 2 | 0 | 0 |") == 1


def test_folders_of_one_arm_are_its_seeds(tmp_path: Path) -> None:
    a = [evaluation(tmp_path / f"a{i}", "10") for i in range(2)]
    b = [evaluation(tmp_path / f"b{i}", "11") for i in range(2)]
    result = wmtp(f"uniform={a[0]},{a[1]}", f"weighted={b[0]},{b[1]}")
    assert result.exit_code == 0, result.output
    assert "uniform (2 seeds)" in result.stdout.replace("\n", " ")
    assert "Paired by seed as well, the i-th evaluation with the baseline's i-th: weighted." in result.stdout


@pytest.mark.parametrize(
    ("passed", "message"),
    [("11", "differs from the baseline in 1 problem, first 'micro/2'"), ("1111", "in 1 problem, first 'micro/3'")],
)
def test_other_problems_are_refused_in_one_line(tmp_path: Path, passed: str, message: str) -> None:
    result = wmtp(evaluation(tmp_path / "a", "111"), evaluation(tmp_path / "b", passed))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: compare: b differs")
    assert message in line


def test_bare_folders_are_named_by_where_they_differ(tmp_path: Path) -> None:
    folders = [str(evaluation(tmp_path / name / "ev", "1")) for name in ("a", "b=c")]
    assert list(named_arms([*folders, f"x={folders[0]}"])) == ["a/ev", "b=c/ev", "x"]
    assert named_arms(folders[:1]) == {folders[0]: [Path(folders[0])]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a=x", "a=y"], "a=y: the arm a was given before"),
        (["x", "x"], "x: the arm x was given before"),
        (["=x"], "must be DIR or name=DIR,DIR"),
        (["a=x,"], "must be DIR or name=DIR,DIR"),
    ],
)
def test_arms_that_are_not_clear_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        named_arms(arguments)


def test_a_missing_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    result = wmtp(evaluation(tmp_path / "a", "1"), tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "holds no results.jsonl" in result.stderr
