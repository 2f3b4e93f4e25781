"""Executed samples as a dataset: what is kept, what is left out, what is refused."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from splits import write_split

from weighted_mtp.data.index import read_index
from weighted_mtp.data.preparation.verify import check_dataset
from weighted_mtp.data.schema import Problem, Solution, Span, TestCase
from weighted_mtp.data.tables import PROBLEMS_FILE, read_problems, read_solutions
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.config import LabelOptions
from weighted_mtp.evaluation.own_programs import authors_differ, read_evaluation, write_labelled
from weighted_mtp.files import check_files, sha256
from weighted_mtp.manifest import Manifest, write_manifest
from weighted_mtp.pipelines.label_samples import label

TESTS = (TestCase("call", "(1,)", "2"),)
SPLITS = {"train": "abc", "validation": "v", "test": "t"}


def problem(name: str, split: str) -> Problem:
    return Problem(name, "micro", split, f"task {name}", starter="def f(x):\n", entry_point="f", tests=TESTS)


@pytest.fixture
def datasets(tmp_path: Path) -> Path:
    """A prepared dataset with a correct and an incorrect solution of each problem."""
    folder = tmp_path / "datasets" / "micro"
    for split, names in SPLITS.items():
        solutions = [
            Solution(f"{name}/{label}", name, f"def f(x):\n    return x + {number}\n", label)
            for name in names
            for number, label in enumerate((False, True))
        ]
        write_split(folder / split, [problem(name, split) for name in names], solutions)
    write_manifest(folder, {"dataset": "micro", "splits": {split: {} for split in SPLITS}})
    return tmp_path / "datasets"


def sampled(name: str, code: str, passed: bool, **more: Any) -> dict[str, Any]:
    return {"task_id": name, "completion": code, "passed": passed, "finished": "eos", **more}


def evaluation(datasets: Path, split: str, records: Sequence[dict[str, Any]], name: str = "", **config: str) -> Path:
    """The folder that an evaluation on this split leaves."""
    folder = datasets.parent / (name or f"on-{split}")
    folder.mkdir()
    options = {"benchmark": "micro", "split": split, "data_root": str(datasets), **config}
    problems = datasets / options["benchmark"] / split / PROBLEMS_FILE
    (folder / "report.json").write_text(json.dumps({"config": options, "problems_sha256": sha256(problems)}))
    (folder / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def labelled(datasets: Path, *folders: Path, **options: Any) -> tuple[Manifest, bool]:
    return write_labelled(datasets / "own", [read_evaluation(folder) for folder in folders], LabelOptions(**options))


def programs(split: Path) -> list[tuple[str, str, bool]]:
    return [(s.problem_id, s.code.removeprefix("def f(x):\n"), s.is_correct) for s in read_solutions(split)]


def test_a_split_holds_each_program_once_with_its_verdict(datasets: Path) -> None:
    records = [
        *(sampled("b", "    return 2\n", True), sampled("a", "    return x +\n", False)),
        *(sampled("b", "    return 2\n", True), sampled("b", "    return 0\n", False, finished="stop")),
    ]
    manifest, is_new = labelled(
        datasets,
        evaluation(datasets, "train", records),
        evaluation(datasets, "validation", [sampled("v", "    return 2\n", True)]),
    )
    own = datasets / "own"
    assert is_new
    assert programs(own / "train") == [
        ("a", "    return x +\n", False),
        ("b", "    return 2\n", True),
        ("b", "    return 0\n", False),
    ]
    assert programs(own / "validation") == [("v", "    return 2\n", True)]
    assert read_problems(own / "train") == [problem("a", "train"), problem("b", "train")]
    assert read_index(own / "train").is_correct.tolist() == [False, True, False]
    assert (manifest["rows_in"], manifest["dropped"]) == (5, {"program repeated in its problem": 1})
    assert manifest["splits"]["train"] == {"problems": 2, "correct": 1, "incorrect": 2}
    check_files(own, manifest["files"])
    assert check_dataset(own) == "train, validation: 3 problems, 2 correct, 2 incorrect"
    assert len({s.solution_id for s in read_solutions(own / "train")}) == 3
    assert {(s.origin, s.language) for s in read_solutions(own / "train")} == {("model", "python3")}


@pytest.mark.parametrize("keep", [False, True])
def test_a_program_that_was_cut_is_kept_only_where_asked(datasets: Path, keep: bool) -> None:
    cut = [sampled("a", "    return", False, finished="length"), sampled("b", "    ret", False, finished="length")]
    done = evaluation(datasets, "train", [*cut, sampled("b", "    return 2\n", True)])
    manifest, _ = labelled(datasets, done, keep_unfinished=keep)
    found = [(name, code) for name, code, _ in programs(datasets / "own" / "train")]
    if keep:
        assert found == [("a", "    return"), ("b", "    ret"), ("b", "    return 2\n")]
        assert manifest["dropped"] == {}
    else:
        assert found == [("b", "    return 2\n")]
        assert manifest["dropped"] == {"problem without a program left": 1, "program cut at the longest answer": 2}


def test_a_program_of_both_verdicts_has_no_label(datasets: Path) -> None:
    records = [sampled("a", "    slow\n", True), sampled("a", "    slow\n", False), sampled("a", "    x\n", False)]
    manifest, _ = labelled(datasets, evaluation(datasets, "train", records))
    assert programs(datasets / "own" / "train") == [("a", "    x\n", False)]
    assert manifest["dropped"] == {"program of both verdicts": 2}


def test_evaluations_of_one_split_are_pooled(datasets: Path) -> None:
    one = evaluation(datasets, "train", [sampled("c", "    1\n", False), sampled("a", "    1\n", False)], "one")
    other = evaluation(datasets, "train", [sampled("a", "    2\n", True), sampled("a", "    1\n", False)], "other")
    labelled(datasets, one, other)
    assert programs(datasets / "own" / "train") == [
        ("a", "    1\n", False),
        ("a", "    2\n", True),
        ("c", "    1\n", False),
    ]


def test_the_datasets_own_solutions_come_along_where_asked(datasets: Path) -> None:
    records = [sampled("b", "    return x + 1\n", True), sampled("c", "    return 7\n", False)]
    labelled(datasets, evaluation(datasets, "train", records), keep_solutions=True)
    assert [(s.solution_id, s.is_correct) for s in read_solutions(datasets / "own" / "train")] == [
        *(("b/False", False), ("b/True", True)),
        *(("c/False", False), ("c/True", True), ("c/sampled/0", False)),
    ]


def test_pairs_of_two_authors_are_counted(datasets: Path) -> None:
    records = [
        sampled("a", "    return 5\n", True),
        sampled("a", "    return 6\n", False),
        sampled("b", "    return 7\n", False),
    ]
    labelled(datasets, evaluation(datasets, "train", records), keep_solutions=True)
    assert authors_differ(datasets / "own" / "train") == 3 / 6  # of a's four pairs two, of b's two one
    assert authors_differ(datasets / "micro" / "train") == 0


@pytest.mark.parametrize(("failures", "is_said"), [(12, True), (3, False)])
def test_it_is_said_where_a_critic_could_learn_who_wrote(
    datasets: Path, capsys: pytest.CaptureFixture[str], failures: int, is_said: bool
) -> None:
    records = [sampled("c", f"    return {10 + number}\n", False) for number in range(failures)]
    label([evaluation(datasets, "train", records)], datasets / "own", LabelOptions(keep_solutions=True))
    assert ("train: 92% of its pairs are of a policy's program and another's" in capsys.readouterr().out) == is_said


def test_a_whole_program_and_a_text_answer_are_taken_as_they_are(datasets: Path) -> None:
    answer = Problem("q", "gsm8k", "train", "1 + 1?", tests=(TestCase("answer", "", "2"),))
    write_split(datasets / "gsm8k" / "train", [answer], [])
    write_manifest(datasets / "gsm8k", {"dataset": "gsm8k", "splits": {"train": {}}})
    told = evaluation(datasets, "train", [sampled("q", "It is 2.", True)], benchmark="gsm8k")
    labelled(datasets, told)
    (solution,) = read_solutions(datasets / "own" / "train")
    assert (solution.code, solution.language) == ("It is 2.", "text")
    whole = evaluation(datasets, "train", [{"task_id": "a", "solution": "f = abs", "passed": False}], "whole")
    labelled(datasets, whole)
    assert [s.code for s in read_solutions(datasets / "own" / "train")] == ["f = abs"]


def test_the_same_again_changes_nothing_and_other_results_do(datasets: Path) -> None:
    folder = evaluation(datasets, "train", [sampled("a", "    1\n", False)])
    labelled(datasets, folder)
    manifest = (datasets / "own" / "manifest.json").stat().st_mtime_ns
    assert labelled(datasets, folder)[1] is False
    assert (datasets / "own" / "manifest.json").stat().st_mtime_ns == manifest
    assert labelled(datasets, folder, keep_solutions=True)[1] is True
    (folder / "results.jsonl").write_text(json.dumps(sampled("a", "    2\n", False)) + "\n")
    labelled(datasets, folder)
    assert programs(datasets / "own" / "train") == [("a", "    2\n", False)]
    (datasets / "own" / "train" / "index.parquet").unlink()
    assert labelled(datasets, folder)[1] is True


def test_a_test_split_is_refused_unless_it_stays_one(datasets: Path) -> None:
    tested = evaluation(datasets, "test", [sampled("t", "    1\n", False)])
    with pytest.raises(UserError, match=r"on-test is an evaluation on micro/test, a split not to be learned from: .*"):
        labelled(datasets, tested)
    assert not (datasets / "own").exists()
    labelled(datasets, tested, splits=("train", "test"))
    assert [path.name for path in (datasets / "own").iterdir() if path.is_dir()] == ["test"]


@pytest.mark.parametrize("name", ["micro", "humaneval", "mbpp-small", "other"])
def test_no_other_dataset_is_replaced(datasets: Path, name: str) -> None:
    (datasets / "other").mkdir()
    folder = evaluation(datasets, "train", [sampled("a", "    1\n", False)])
    before = sorted(datasets.rglob("*"))
    with pytest.raises(UserError, match=rf"datasets/{name}.*: choose another|makes the dataset of that name; choose"):
        write_labelled(datasets / name, [read_evaluation(folder)], LabelOptions())
    assert sorted(datasets.rglob("*")) == before


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([sampled("z", "    1\n", False)], "task_id 'z' is not in the benchmark"),
        ([sampled("a", "    1", False, finished="length")], "no program is left .*--keep-unfinished"),
    ],
)
def test_results_that_make_no_dataset_are_one_line(
    datasets: Path, records: Sequence[dict[str, Any]], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        labelled(datasets, evaluation(datasets, "train", records))
    assert [path.name for path in datasets.iterdir()] == ["micro"]


def test_verdicts_on_other_problems_are_refused(datasets: Path) -> None:
    folder = evaluation(datasets, "train", [sampled("a", "    1\n", False)])
    write_split(datasets / "micro" / "train", [replace(problem("a", "train"), description="another")], [])
    write_manifest(datasets / "micro", {"dataset": "micro", "splits": {"train": {}}})
    with pytest.raises(UserError, match=r"on-train: .*micro/train has been rebuilt since, with other problems"):
        labelled(datasets, folder)


def test_evaluations_of_two_datasets_are_refused(datasets: Path) -> None:
    write_split(datasets / "mbpp" / "train", [problem("a", "train")], [])
    one = evaluation(datasets, "train", [sampled("a", "    1\n", False)], "one")
    other = evaluation(datasets, "train", [sampled("a", "    1\n", False)], "other", benchmark="mbpp")
    with pytest.raises(UserError, match=r"other is an evaluation on .*mbpp, .*one one on .*micro: make a dataset of"):
        labelled(datasets, one, other)


@pytest.mark.parametrize("report", ["", "{}", '{"config": {"split": "train"}}', "[]"])
def test_a_folder_without_a_finished_evaluation_is_one_line(tmp_path: Path, report: str) -> None:
    with pytest.raises(UserError, match="holds no finished evaluation: make one first, with `uv run wmtp evaluate"):
        read_evaluation(tmp_path)
    (tmp_path / "report.json").write_text(report)
    with pytest.raises(UserError, match=r"report.json is damaged or of another version"):
        read_evaluation(tmp_path)


UNDEFINED = "test 1: NameError: name 'xs' is not defined. Did you mean: 'x'?"


@pytest.mark.parametrize(
    ("code", "detail", "wrong"),
    [
        ("    y = 'é'; return xs + xs\n", UNDEFINED, "é'; return |xs"),
        ("    y = 'a\x0cb'\r\n    return [xs for y in x]\r\n", UNDEFINED, "return [|xs"),
        ("    r = xs\n    xs = 1\n", "UnboundLocalError: cannot access local variable 'xs' where it is", "r = |xs"),
        ("    return 0\n", "test 1: returned 0, expected 2", None),
        ("    return x +\n", UNDEFINED, None),
        ("    return eval('xs')\n", UNDEFINED, None),
    ],
)
def test_the_first_use_of_an_undefined_name_is_marked_as_wrong(
    datasets: Path, code: str, detail: str, wrong: str | None
) -> None:
    labelled(datasets, evaluation(datasets, "train", [sampled("a", code, False, detail=detail)]))
    (solution,) = read_solutions(datasets / "own" / "train")
    expected = []
    if wrong is not None:
        before, name = wrong.split("|")
        start = solution.code.index(before + name) + len(before)
        expected = [Span("wrong", start, start + len(name))]
    assert list(solution.spans) == expected
