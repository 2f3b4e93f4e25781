"""The package's own configurations: found by name, copied with what they are made of."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from weighted_mtp.cli import app
from weighted_mtp.config import read_options
from weighted_mtp.configurations import beside, complete, copy, find, folder, names, summaries
from weighted_mtp.errors import UserError


@pytest.mark.parametrize("name", ["local/demo", "local/demo.yaml", "configs/local/demo.yaml"])
def test_a_name_and_a_path_of_the_documents_are_found_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(Path(name)) == folder() / "local" / "demo.yaml"


def test_a_file_goes_ahead_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs" / "local" / "demo.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: mine\n")
    assert find(Path("configs/local/demo.yaml")).resolve() == own
    assert find(Path("local/demo")) == folder() / "local" / "demo.yaml"


@pytest.mark.parametrize(
    ("name", "near"),
    [("local/basline_local", "local/baseline_local"), ("demo", "local/demo"), ("smollm2", "local/study_smollm2")],
)
def test_an_unknown_name_lists_near_ones(name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"near it: .*{near}.*wmtp configs list"):
        find(Path(name))


def test_a_path_that_does_not_exist_is_no_name() -> None:
    with pytest.raises(UserError, match=r"/nowhere/x\.yaml: no such configuration file"):
        find(Path("/nowhere/x.yaml"))


def test_a_configuration_may_extend_one_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: local/baseline_local\nrun: {name: mine}\n")
    options = read_options(tmp_path / "mine.yaml")
    assert options["run"] == {"root": "storage/runs", "seed": 0, "name": "mine"}
    assert options["data"]["dataset"] == "micro"
    assert beside(tmp_path, Path("local/critic_local")) == folder() / "local" / "critic_local.yaml"
    assert beside(tmp_path, Path("nowhere.yaml")) == tmp_path / "nowhere.yaml"


def test_a_copy_has_what_it_is_made_of_and_reads_the_same(tmp_path: Path) -> None:
    written = copy("local/study_noisy", tmp_path)
    assert {file.relative_to(tmp_path).as_posix() for file in written} >= {
        "base.yaml", "local/study_noisy.yaml", "local/study_verified.yaml", "local/critic_local.yaml",
    }  # fmt: skip
    for file in written:
        original = folder() / file.relative_to(tmp_path)
        assert read_options(file, resolve=False) == read_options(original, resolve=False)
    assert copy("local/study_noisy", tmp_path) == []


def test_a_copy_never_replaces_what_was_changed(tmp_path: Path) -> None:
    copy("local/demo", tmp_path)
    (tmp_path / "local" / "demo.yaml").write_text("name: changed\n")
    with pytest.raises(UserError, match=r"demo\.yaml is there and differs.*--to"):
        copy("all", tmp_path)
    assert len(list(tmp_path.rglob("*.yaml"))) < len(names())


def test_all_of_them_are_copied(tmp_path: Path) -> None:
    copy("all", tmp_path)
    assert {f.relative_to(tmp_path) for f in tmp_path.rglob("*.yaml")} == {
        f.relative_to(folder()) for f in folder().rglob("*.yaml")
    }


def test_each_says_in_a_sentence_what_it_is() -> None:
    for name, says in summaries():
        assert 15 < len(says) < 250, name
        assert "Before" not in says


def test_the_commands_list_copy_complete_and_refuse_in_one_line(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["configs", "list"])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == names()
    assert CliRunner().invoke(app, ["configs", "copy", "local/demo", "--to", str(tmp_path)]).exit_code == 0
    wrong = CliRunner().invoke(app, ["train", "baseline", "--config", "local/baselin_local"])
    assert wrong.exit_code == 2
    assert "near it: local/baseline_local" in wrong.stderr
    assert complete("local/de") == ["local/demo"]
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("wmtp 0.")
