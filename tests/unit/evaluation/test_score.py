"""Reading samples, scoring them, and what is written."""

import gzip
import json

import pytest

from weighted_mtp.data.schema import Problem, TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.benchmarks import BENCHMARKS
from weighted_mtp.evaluation.samples import read_samples, write_jsonl
from weighted_mtp.evaluation.sandbox import Limits
from weighted_mtp.evaluation.score import score

PROBLEMS = [
    Problem(f"HumanEval/{i}", "humaneval", "test", "", starter="def f(x):\n", entry_point="f",
            tests=(TestCase("code", "", f"assert f({i}) == {i + 1}"),))
    for i in range(2)
]  # fmt: skip
RIGHT, WRONG = "    return x + 1", "    return x"


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def sample(task, completion, **more):
    return {"task_id": f"HumanEval/{task}", "completion": completion, **more}


def test_results_are_the_samples_with_human_evals_keys_added(tmp_path, capsys):
    samples = write(tmp_path / "samples.jsonl", [
        sample(1, RIGHT, model="m"), sample(0, WRONG), sample(0, "    while True: pass"),
        {"task_id": "HumanEval/1", "solution": "def f(x): return 2"}])  # fmt: skip
    report = score(BENCHMARKS["humaneval"], PROBLEMS, samples, tmp_path / "out", limits=Limits(cpu_seconds=0.3))
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [(row["task_id"], row["passed"], row["status"]) for row in rows] == [
        ("HumanEval/1", True, "passed"), ("HumanEval/0", False, "failed"), ("HumanEval/0", False, "timed_out"),
        ("HumanEval/1", True, "passed")]  # fmt: skip
    assert [row["result"] for row in rows[::2]] == ["passed", "timed out"]
    assert rows[1]["result"].startswith("failed: test 1: assert f(0) == 1")
    assert rows[0]["model"] == "m"
    assert report.statuses == {"passed": 2, "failed": 1, "timed_out": 1}
    assert "executing humaneval: 4/4" in capsys.readouterr().err
    assert (report.counts, report.pass_at_k[1].value) == ({"HumanEval/1": (2, 2), "HumanEval/0": (2, 0)}, 0.5)
    assert list(report.pass_at_k) == [1]


def test_the_same_samples_give_the_same_report(tmp_path):
    samples = write(tmp_path / "samples.jsonl", [sample(0, RIGHT), sample(1, WRONG)])
    reports = [score(BENCHMARKS["humaneval"], PROBLEMS, samples, tmp_path / "out") for _ in range(2)]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"task_id": "HumanEval/0", "completion": "x"', "line 2: broken JSON"),
        ('["HumanEval/0"]', "line 2: a JSON list; every row must be one JSON object"),
        ('{"completion": "x"}', "line 2: no key task_id"),
        ('{"task_id": "HumanEval/9", "completion": "x"}', "line 2: task_id 'HumanEval/9' is not in the benchmark"),
        ('{"task_id": "HumanEval/0"}', "line 2: needs one of the keys completion and solution"),
        ('{"task_id": "HumanEval/0", "completion": 3}', "line 2: needs one of the keys"),
        ('{"task_id": "HumanEval/0", "completion": "x", "solution": "y"}', "line 2: needs one of the keys"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, message):
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(sample(0, RIGHT)) + "\n" + line + "\n")
    with pytest.raises(UserError, match=message):
        read_samples(path, PROBLEMS)


def test_a_missing_an_empty_and_a_binary_file_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl does not exist"):
        read_samples(tmp_path / "none.jsonl", PROBLEMS)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"empty.jsonl is empty"):
        read_samples(tmp_path / "empty.jsonl", PROBLEMS)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary.jsonl line 1: not UTF-8"):
        read_samples(tmp_path / "binary.jsonl", PROBLEMS)


def test_gzipped_samples_and_task_ids_in_other_spellings_are_read(tmp_path):
    task = Problem("mbpp/11", "mbpp", "test", "", tests=(TestCase("code", "", "pass", "public"),))
    path = tmp_path / "samples.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"task_id": "Mbpp/11", "solution": "x"}\n{"task_id": 11, "completion": "y"}\n'))
    assert [(found.text, found.is_whole) for found in read_samples(path, [task])] == [("x", True), ("y", False)]


def test_problems_without_samples_are_refused_unless_a_part_is_wanted(tmp_path):
    samples = write(tmp_path / "samples.jsonl", [sample(1, RIGHT)])
    with pytest.raises(UserError, match="no sample for 1 of 2 problems, first 'HumanEval/0'"):
        score(BENCHMARKS["humaneval"], PROBLEMS, samples, tmp_path)
    report = score(BENCHMARKS["humaneval"], PROBLEMS, samples, tmp_path, partial=True)
    assert report.counts == {"HumanEval/1": (1, 1)}


def test_a_k_above_the_number_of_samples_is_refused_before_anything_runs(tmp_path):
    samples = write(tmp_path / "samples.jsonl", [sample(0, RIGHT), sample(0, RIGHT), sample(1, RIGHT)])
    with pytest.raises(UserError, match=r"pass@2: .* has only 1 samples of some problem"):
        score(BENCHMARKS["humaneval"], PROBLEMS, samples, tmp_path / "out", ks=[2])
    assert not (tmp_path / "out").exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("old\n")

    def records():
        yield {"a": 1}
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"results\.jsonl: cannot be written \(No space left on device\)"):
        write_jsonl(path, records())
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.jsonl"]
    assert path.read_text() == "old\n"
