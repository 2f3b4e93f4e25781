"""From upstream's files to prepared datasets: every row accounted for, whole or not at all, once."""

import gzip
import json
import re
import resource
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from weighted_mtp.data.preparation.config import Options
from weighted_mtp.data.preparation.prepare import prepare
from weighted_mtp.data.preparation.registry import DATASETS, dataset_named, find_files
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.errors import UserError
from weighted_mtp.files import check_files
from weighted_mtp.manifest import read_manifest

TREES = "Given a tree with n vertices count the paths whose length is a prime number and print it modulo 998244353"
PROGRAM = (
    "def solve(n):\n    return sum(i * i for i in range(n) if i % 3 == 0 or i % 5 == 0)\nprint(solve(int(input())))\n"
)


def _row(name: str, description: str = "", correct: tuple[str, ...] = ("a",), **changes: Any) -> dict[str, Any]:
    none = dict.fromkeys(("private_tests", "generated_tests", "cf_rating", "time_limit", "memory_limit_bytes"))
    return {
        "name": name,
        "description": description or f"do {name}",
        "public_tests": {"input": ["1"], "output": ["2"]},
        **none,
        "source": 2,
        "difficulty": 7,
        "solutions": {"language": [3] * len(correct), "solution": list(correct)},
        "incorrect_solutions": {"language": [3], "solution": [f"wrong {name}"]},
        **changes,
    }


NO_SOLUTIONS = {"language": [2], "solution": ["int main(){}"]}
TRAIN = [
    _row("one"),
    _row("two", correct=("b", "b", "c")),
    _row("none in python", solutions=NO_SOLUTIONS, incorrect_solutions=NO_SOLUTIONS),
    _row("same statement", TREES.upper() + "!"),
    _row("same program", correct=("x", f"# mine\n{PROGRAM}")),
    _row("named file", input_file="input.txt"),
]
TEST = [
    _row("trees", TREES),
    _row("numbers", correct=(PROGRAM,)),
    _row("cpp only", solutions=NO_SOLUTIONS, incorrect_solutions=NO_SOLUTIONS),
]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    _write(folder / "codecontests" / "train.jsonl.gz", TRAIN)
    _write(folder / "codecontests" / "test.jsonl", TEST)
    return folder


def _mbpp(source: Path, *texts: str) -> None:
    empty = {"test_setup_code": "", "test_list": [], "challenge_test_list": []}
    _write(
        source / "mbpp.jsonl",
        [{"task_id": 11 + i, "text": text, "code": f"def f{i}(): pass", **empty} for i, text in enumerate(texts)],
    )


def _names(split: Path) -> list[str]:
    return [problem.problem_id.split("/")[-1] for problem in read_problems(split)]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_row_and_solution_is_kept_or_counted(source: Path, tmp_path: Path) -> None:
    manifest, is_new = prepare("codecontests", tmp_path, source)
    folder = tmp_path / "datasets" / "codecontests"
    assert is_new
    assert _names(folder / "train") == ["one", "two"]
    assert _names(folder / "test") == ["trees", "numbers", "cpp only"]
    assert manifest["rows_in"] == 9
    assert manifest["splits"] == {
        "test": {"problems": 3, "correct": 2, "incorrect": 2},
        "train": {"problems": 2, "correct": 3, "incorrect": 2},
    }
    assert manifest["dropped"] == {
        "problem that overlaps an evaluation set": 2,
        "problem that reads or writes a named file": 1,
        "problem without a solution left": 1,
        "solution in another language": 4,
        "solution of a problem left out": 7,
        "solution repeated in its problem": 1,
    }
    assert sum(s["correct"] + s["incorrect"] for s in manifest["splits"].values()) + 12 == 21
    check_files(folder, manifest["files"])
    assert manifest["files"].keys() == _bytes(folder).keys() - {"manifest.json"}
    assert read_manifest(folder) == manifest


def test_overlaps_are_named_with_what_they_overlap(source: Path, tmp_path: Path) -> None:
    found = prepare("codecontests", tmp_path, source)[0]["contamination"]
    assert found["checked"] == ["codecontests/test"]
    assert found["not_prepared"] == ["humaneval", "mbpp", "gsm8k", "humaneval+", "mbpp+"]
    assert [(o["problem_id"].split("/")[-1], o["with"].split("/")[-1], o["kind"]) for o in found["overlaps"]] == [
        ("same statement", "trees", "exact statement"),
        ("same program", "numbers", "exact solution"),
    ]


def test_overlaps_may_be_kept_but_are_reported(source: Path, tmp_path: Path) -> None:
    manifest, _ = prepare("codecontests", tmp_path, source, Options(keep_contaminated=True))
    names = _names(tmp_path / "datasets" / "codecontests" / "train")
    assert names == ["one", "two", "same statement", "same program"]
    assert len(manifest["contamination"]["overlaps"]) == 2
    assert manifest["contamination"]["kept"] is True


def test_other_benchmarks_that_are_prepared_are_compared_too(source: Path, tmp_path: Path) -> None:
    _mbpp(source, "do one", "another")
    prepare("mbpp", tmp_path, source)
    manifest, _ = prepare("codecontests", tmp_path, source)
    assert _names(tmp_path / "datasets" / "codecontests" / "train") == ["two"]
    assert manifest["contamination"]["checked"] == ["codecontests/test", "mbpp/test"]
    assert manifest["contamination"]["overlaps"][0]["with"] == "mbpp/11"


def test_the_same_input_and_options_give_the_same_bytes_and_are_not_read_again(source: Path, tmp_path: Path) -> None:
    for storage in (tmp_path / "a", tmp_path / "b"):
        manifest, _ = prepare("codecontests", storage, source)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert prepare("codecontests", tmp_path / "a", source) == (manifest, False)
    assert prepare("codecontests", tmp_path / "a", None) == (manifest, False)


def test_other_options_input_or_evaluation_sets_are_processed_anew(source: Path, tmp_path: Path) -> None:
    prepare("codecontests", tmp_path, source)
    assert prepare("codecontests", tmp_path, source, Options(languages=("cpp",)))[1]
    assert prepare("codecontests", tmp_path, source)[1]
    _write(source / "codecontests" / "train.jsonl.gz", TRAIN[:1])
    assert prepare("codecontests", tmp_path, source)[1]
    _mbpp(source, "do one")
    prepare("mbpp", tmp_path, source)
    _write(source / "codecontests" / "train.jsonl.gz", TRAIN[:2])
    assert prepare("codecontests", tmp_path, source)[1]
    assert not prepare("codecontests", tmp_path, source)[1]


def test_evaluation_splits_alone_are_those_of_the_whole(source: Path, tmp_path: Path) -> None:
    manifest, _ = prepare("codecontests", tmp_path / "a", source, only_evaluation=True)
    prepare("codecontests", tmp_path / "b", source)
    assert list(manifest["splits"]) == ["test"]
    assert manifest["rows_in"] == 3
    part, whole = (tmp_path / name / "datasets" / "codecontests" / "test" for name in "ab")
    assert _bytes(part) == _bytes(whole)


def test_evaluation_alone_leaves_a_whole_dataset_and_is_replaced_by_it(source: Path, tmp_path: Path) -> None:
    prepare("codecontests", tmp_path, source, only_evaluation=True)
    whole, is_new = prepare("codecontests", tmp_path, source)
    assert is_new
    assert "train" in whole["splits"]
    assert prepare("codecontests", tmp_path, source, only_evaluation=True) == (whole, False)


def test_the_first_problems_of_each_split_may_be_enough(source: Path, tmp_path: Path) -> None:
    manifest, _ = prepare("codecontests", tmp_path, source, Options(max_problems=1))
    assert {split: n["problems"] for split, n in manifest["splits"].items()} == {"test": 1, "train": 1}
    assert manifest["rows_in"] == 2


@pytest.mark.parametrize("where", ["codecontests/train.jsonl.gz", "codecontests/test.jsonl"])
def test_a_broken_file_leaves_the_earlier_dataset_and_nothing_else(source: Path, tmp_path: Path, where: str) -> None:
    prepare("codecontests", tmp_path, source)
    before = _bytes(tmp_path / "datasets")
    _write(source / where, [_row("new"), {"name": "bad"}])
    with pytest.raises(UserError, match=rf"^[^\n]*{where} line 2: no column 'source'[^\n]*$"):
        prepare("codecontests", tmp_path, source)
    assert _bytes(tmp_path / "datasets") == before
    assert [folder.name for folder in (tmp_path / "datasets").iterdir()] == ["codecontests"]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            [_row("a"), _row("b"), _row("a")],
            [_row("t")],
            r"train\.jsonl\.gz line 3: problem 'codecontests/codeforces/a'",
        ),
        ([_row("t")], [_row("t")], r"train\.jsonl\.gz line 1: problem .* is also at .*test\.jsonl line 1; remove one"),
    ],
)
def test_a_problem_that_is_there_twice_is_named_with_both_places(
    source: Path, tmp_path: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], message: str
) -> None:
    _write(source / "codecontests" / "train.jsonl.gz", train)
    _write(source / "codecontests" / "test.jsonl", test)
    with pytest.raises(UserError, match=message):
        prepare("codecontests", tmp_path, source)


def test_two_platforms_may_share_a_name(source: Path, tmp_path: Path) -> None:
    _write(source / "codecontests" / "train.jsonl.gz", [_row("a"), _row("a", "other", source=5)])
    prepare("codecontests", tmp_path, source)
    problems = read_problems(tmp_path / "datasets" / "codecontests" / "train")
    assert [p.problem_id for p in problems] == ["codecontests/codeforces/a", "codecontests/atcoder/a"]


def test_a_dataset_of_which_nothing_is_left_is_refused(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source / "codecontests")
    _write(source / "train.jsonl", TRAIN)
    with pytest.raises(UserError, match=r"^codecontests: no problem is left: [^\n]*another language[^\n]*$"):
        prepare("codecontests", tmp_path, source, Options(languages=("java",)))
    assert _bytes(tmp_path / "datasets") == {}


def test_a_place_that_cannot_be_written_is_one_line(source: Path, tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "datasets").write_text("a file in the way")
    with pytest.raises(UserError, match=r"^cannot write .*/storage/datasets/codecontests: [^\n]*$"):
        prepare("codecontests", tmp_path / "storage", source)


def test_a_disk_that_fills_up_is_one_line_and_leaves_the_earlier_dataset(source: Path, tmp_path: Path) -> None:
    prepare("codecontests", tmp_path, source)
    before = _bytes(tmp_path / "datasets")
    noise = "".join(f"{number * 2654435761 % 2**32:x}" for number in range(20_000))
    _write(source / "codecontests" / "train.jsonl.gz", [_row("long", noise)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)  # a limit on file size stands in for a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match=r"^cannot write .*/datasets/codecontests: .*; make room[^\n]*$"):
            prepare("codecontests", tmp_path, source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _bytes(tmp_path / "datasets") == before


def test_files_are_found_in_every_layout(tmp_path: Path) -> None:
    dataset = dataset_named("gsm8k")
    for name in ("main/train-00000-of-00002.parquet", "main/train-00001-of-00002.parquet", "main/test-0.parquet"):
        _write(tmp_path / "hub" / name, [])
    _write(tmp_path / "own" / "gsm8k" / "test.jsonl.gz", [])
    assert {split: len(files) for split, files in find_files(dataset, tmp_path / "hub").items()} == {
        "test": 1,
        "train": 2,
    }
    assert find_files(dataset, tmp_path / "own") == {"test": [tmp_path / "own" / "gsm8k" / "test.jsonl.gz"]}
    one = _write(tmp_path / "my.jsonl", [])
    assert find_files(dataset_named("mbpp"), one) == {None: [one]}


@pytest.mark.parametrize("name", DATASETS)
def test_a_source_without_the_files_says_which_would_serve(tmp_path: Path, name: str) -> None:
    files, known = DATASETS[name].file_names(), re.escape(name)
    with pytest.raises(UserError, match=rf"^--source {tmp_path}: has none of {known}'s files: give .* {files} "):
        prepare(name, tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"/nowhere: does not exist: give a folder with"):
        prepare(name, tmp_path, tmp_path / "nowhere")


def test_a_dataset_that_is_not_on_the_hub_asks_for_a_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^condefects is not on the hub: give --source DIR with python_pairs\.jsonl"):
        prepare("condefects", tmp_path)


def test_an_unknown_dataset_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset 'mbbp' is unknown: choose one of micro, humaneval, mbpp"):
        prepare("mbbp", tmp_path)


def test_real_pairs_of_one_file_are_parted_and_add_up(shared: Path, tmp_path: Path) -> None:
    manifest, _ = prepare("condefects", tmp_path, shared)
    folder = tmp_path / "datasets" / "condefects"
    assert sum(counts["problems"] for counts in manifest["splits"].values()) == manifest["rows_in"] == 594
    assert manifest["dropped"] == {"solution repeated in its problem": 3}
    solutions = Counter(s.is_correct for split in manifest["splits"] for s in read_solutions(folder / split))
    assert solutions == {True: 1_573, False: 1_574}
