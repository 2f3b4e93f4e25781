"""The folder of an evaluation: what is kept of a killed one, and what is refused in it."""

import json
from pathlib import Path

import pytest

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.evaluation_folder import EvaluationFolder, Execution, Origin
from weighted_mtp.evaluation.journal import Journal

FILE = Origin(benchmark="mbpp", split="test", first=None, problems_sha256="p", samples_sha256="s")
MODEL = Origin(
    benchmark="mbpp",
    split="test",
    first=None,
    problems_sha256="p",
    model_sha256="m",
    dtype="float32",
    device="cpu",
    sampling=SamplingConfig(),
)
RECORDS = [{"a": 1}, {"b": "é\n"}, {"c": None}]


def journal_of(path: Path, *records: dict) -> Journal:
    with Journal(path) as journal:
        journal.add(records)
    return journal


@pytest.mark.parametrize(
    "tail", [b"", b'{"d": 4}', b'{"d":', b"\n", b"[1]\n", b"\xff\n", b'nonsense\n{"e": 5}\n'], ids=repr
)
def test_a_journal_keeps_whole_lines_and_goes_on_after_them(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "new" / "journal"
    journal_of(path, *RECORDS)
    with path.open("ab") as file:
        file.write(tail)
    with Journal(path) as journal:
        assert journal.records == RECORDS
        journal.add([{"d": 6}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [*RECORDS, {"d": 6}]


@pytest.mark.parametrize("most", [0, 2, 3, 9])
def test_a_journal_can_be_cut(tmp_path: Path, most: int) -> None:
    journal_of(tmp_path / "journal", *RECORDS)
    with Journal(tmp_path / "journal") as journal:
        journal.keep(most)
        journal.add([{"d": 4}])
        assert journal.records == [*RECORDS[:most], {"d": 4}]
    assert journal_of(tmp_path / "journal").records == [*RECORDS[:most], {"d": 4}]


@pytest.mark.parametrize("small_disk", [40], indirect=True)
def test_a_full_disk_is_one_line_and_what_was_there_stays(small_disk: Path) -> None:
    journal_of(small_disk / "journal", *RECORDS)
    with pytest.raises(UserError, match=r"journal: cannot be written \(No space left on device\)"):
        journal_of(small_disk / "journal", {"long": "x" * 80_000})
    assert journal_of(small_disk / "journal").records == RECORDS


def test_nothing_is_written_before_a_journal_is_asked_for(tmp_path: Path) -> None:
    with EvaluationFolder(tmp_path / "out", MODEL) as folder:
        assert not folder.has_samples
        assert not (tmp_path / "out").exists()
        with folder.sampling():
            pass
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["origin"]["model_sha256"] == "m"


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"first": 3}, "first: None → 3"),
        ({"model_sha256": "n"}, "model_sha256: m → n"),
        ({"sampling": SamplingConfig(seed=1)}, "sampling.seed: 0 → 1"),
        ({"benchmark": "micro", "split": "train"}, "benchmark: mbpp → micro; split: test → train"),
    ],
)
def test_other_samples_are_refused_and_what_differs_is_named(tmp_path: Path, other: dict, named: str) -> None:
    with EvaluationFolder(tmp_path, MODEL) as folder, folder.sampling():
        pass
    with pytest.raises(UserError) as caught:
        EvaluationFolder(tmp_path, MODEL.model_copy(update=other))
    assert str(caught.value) == (
        f"{tmp_path} holds an evaluation of other samples ({named}): give another --output, or delete that folder"
    )


def test_samples_that_nothing_is_known_of_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"samples\.jsonl is there, and nothing says what drew it"):
        EvaluationFolder(tmp_path, MODEL)
    EvaluationFolder(tmp_path, FILE)  # which is about to score it


def test_verdicts_of_the_same_execution_are_kept(tmp_path: Path) -> None:
    execution = Execution(samples_sha256="s")
    with EvaluationFolder(tmp_path, FILE) as folder, folder.execution(execution) as journal:
        journal.add([{"place": 0}])
    with EvaluationFolder(tmp_path, FILE) as folder, folder.execution(execution) as journal:
        assert journal.records == [{"place": 0}]
        assert not folder.has_results(execution)
        folder.results.write_text("{}\n")
        assert folder.has_results(execution)
    with EvaluationFolder(tmp_path, FILE) as folder:
        assert folder.has_results(execution)
        assert not folder.has_results(Execution(samples_sha256="other"))


@pytest.mark.parametrize("other", [{"samples_sha256": "t"}, {"cpu_seconds": 1.0}, {"memory_mb": 9}, {"unsafe": True}])
def test_verdicts_of_another_execution_go(tmp_path: Path, other: dict) -> None:
    execution = Execution(samples_sha256="s")
    with EvaluationFolder(tmp_path, FILE) as folder:
        with folder.execution(execution) as journal:
            journal.add([{"place": 0}])
        for file in (folder.results, folder.report, folder.page):
            file.write_text("{}\n")
        with folder.execution(execution.model_copy(update=other)) as journal:
            assert journal.records == []
        assert not any(file.exists() for file in (folder.results, folder.report, folder.page))


def test_two_at_a_time_are_refused_and_nothing_of_the_first_goes(tmp_path: Path) -> None:
    execution = Execution(samples_sha256="s")
    with EvaluationFolder(tmp_path, FILE) as first, first.execution(execution) as journal:
        second = EvaluationFolder(tmp_path, FILE)
        with pytest.raises(UserError, match="another process is at work"):
            second.execution(execution.model_copy(update={"memory_mb": 9}))
        assert journal.path.exists()
    with EvaluationFolder(tmp_path, FILE) as third, third.execution(execution):
        pass


@pytest.mark.parametrize("text", ["{", "[]", '{"origin": {}}', '{"of": "another version"}'])
def test_a_damaged_description_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(UserError, match=r"evaluation\.json is damaged or of another version: give another --output"):
        EvaluationFolder(tmp_path, FILE)


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with EvaluationFolder(tmp_path / "out", FILE) as folder, pytest.raises(UserError, match="out: cannot be written"):
        folder.execution(Execution(samples_sha256="s"))
