"""Verification of datasets: what is damaged, leaks or does not add up is found, and the line says what to run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from splits import write_split
from tiny_models import byte_tokenizer
from typer.testing import CliRunner

from weighted_mtp.cli import app
from weighted_mtp.data.index import write_index
from weighted_mtp.data.schema import Problem, Solution, TestCase
from weighted_mtp.data.tokens import split_tokens
from weighted_mtp.manifest import write_manifest

PROBLEMS = {
    split: Problem(f"p/{split}", "cc", split, f"Print {split}.", tests=(TestCase("stdio", "", split),))
    for split in ("train", "test")
}


def dataset(storage: Path, problems: dict[str, Problem], solutions: list[Solution]) -> Path:
    """A prepared dataset of one problem a split, whose training split has the given solutions."""
    folder = storage / "datasets" / "mbpp"
    counts = {}
    for split, problem in problems.items():
        own = solutions if split == "train" else []
        write_split(folder / split, [problem], own)
        correct = sum(solution.is_correct for solution in own)
        counts[split] = {"problems": 1, "correct": correct, "incorrect": len(own) - correct}
    write_manifest(folder, {"dataset": "cc", "splits": counts})
    return folder


SOLUTIONS = [Solution("a", "p/train", "print('train')", True), Solution("b", "p/train", "print()", False)]


def verify(storage: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", "--storage", str(storage), "--check", "datasets"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, " ".join(done.output.replace(str(storage), "").split())


def test_a_whole_dataset_is_good(tmp_path: Path) -> None:
    dataset(tmp_path, PROBLEMS, SOLUTIONS)
    code, output = verify(tmp_path)
    assert code == 0, output
    assert "2 problems, 1 correct, 1 incorrect" in output


@pytest.mark.parametrize(
    ("problems", "solutions", "message"),
    [
        ({**PROBLEMS, "test": replace(PROBLEMS["train"], split="test")}, SOLUTIONS, "is in split train, too"),
        (
            {**PROBLEMS, "test": replace(PROBLEMS["test"], description=" Print  train.\n")},
            SOLUTIONS,
            "has the statement of 'p/train' in split train",
        ),
        (PROBLEMS, [replace(SOLUTIONS[0], problem_id="p/test")], "solution 'a' is of 'p/test', not in it"),
    ],
)
def test_a_leak_between_splits_is_found(
    tmp_path: Path, problems: dict[str, Problem], solutions: list[Solution], message: str
) -> None:
    dataset(tmp_path, problems, solutions)
    code, output = verify(tmp_path)
    assert (code, message in output) == (1, True), output


def test_counts_that_do_not_add_up_are_found(tmp_path: Path) -> None:
    folder = dataset(tmp_path, PROBLEMS, SOLUTIONS)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["correct"] = 5
    write_manifest(folder, manifest)
    assert "its manifest says" in verify(tmp_path)[1]


def test_a_changed_file_is_found_with_what_to_run(tmp_path: Path) -> None:
    folder = dataset(tmp_path, PROBLEMS, SOLUTIONS)
    file = folder / "test" / "problems.parquet"
    file.write_bytes(file.read_bytes()[:-3])
    code, output = verify(tmp_path)
    assert code == 1
    assert "truncated or was changed" in output
    assert "/datasets/mbpp && uv run wmtp data --datasets mbpp" in output


def test_an_index_of_another_version_is_found(tmp_path: Path) -> None:
    folder = dataset(tmp_path, PROBLEMS, SOLUTIONS)
    write_index(folder / "train")
    write_split(folder / "test", [PROBLEMS["test"]], [])
    index = (folder / "train" / "index.parquet").read_bytes()
    write_split(folder / "train", [PROBLEMS["train"]], [SOLUTIONS[0]])
    (folder / "train" / "index.parquet").write_bytes(index)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"] = {"problems": 1, "correct": 1, "incorrect": 0}
    write_manifest(folder, manifest)
    code, output = verify(tmp_path)
    assert (code, "is not of the split's present files" in output) == (1, True), output


def test_a_folder_that_no_command_makes_is_to_be_removed(tmp_path: Path) -> None:
    (tmp_path / "datasets" / "strange").mkdir(parents=True)
    code, output = verify(tmp_path)
    assert code == 1
    assert "run `rm -r /datasets/strange`" in output


def test_tokens_that_were_changed_are_found(tmp_path: Path) -> None:
    folder = dataset(tmp_path, PROBLEMS, SOLUTIONS)
    split_tokens(folder / "train", byte_tokenizer(), "plain")
    assert "2 solutions, " in verify(tmp_path)[1]
    (file,) = (tmp_path / "datasets" / ".tokens").rglob("ids")
    file.write_bytes(bytes(file.stat().st_size))
    code, output = verify(tmp_path)
    assert (code, "another SHA-256" in output, "run `rm -r /datasets/.tokens/mbpp/train/plain-" in output) == (
        1,
        True,
        True,
    )
