"""Reading samples, scoring them, and what is written."""

import gzip
import json
from dataclasses import replace

import pytest
from splits import write_split

from weighted_mtp.data.schema import Problem, TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation import score as scoring
from weighted_mtp.evaluation.benchmarks import BENCHMARKS, Benchmark
from weighted_mtp.evaluation.evaluation_folder import EvaluationFolder, Origin
from weighted_mtp.evaluation.journal import Journal
from weighted_mtp.evaluation.problems import ProblemSet
from weighted_mtp.evaluation.samples import program_key, read_samples, write_jsonl
from weighted_mtp.evaluation.score import score
from weighted_mtp.evaluation.verdicts import Failure, Report
from weighted_mtp.files import sha256
from weighted_mtp.sandbox import Outcome

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


def scored(samples, output, problems=PROBLEMS, benchmark=BENCHMARKS["humaneval"], **options) -> Report:
    split = output.parent / "datasets" / benchmark.name / "test"
    write_split(split, problems, [])
    origin = Origin(
        benchmark=benchmark.name, split="test", first=None, problems_sha256="p", samples_sha256=sha256(samples)
    )
    with EvaluationFolder(output, origin) as folder:
        return score(benchmark, ProblemSet(split), samples, folder, **options)


def counts(report):
    return {name: (problem.samples, problem.passed) for name, problem in report.problems.items()}


def rows_of(output):
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


def test_results_are_the_samples_with_human_evals_keys_added(tmp_path, capsys):
    samples = write(tmp_path / "samples.jsonl", [
        sample(1, RIGHT, model="m"), sample(0, WRONG), sample(0, "    while True: pass"),
        {"task_id": "HumanEval/1", "solution": "def f(x): return 2"}])  # fmt: skip
    report = scored(samples, tmp_path / "out", cpu_seconds=1)
    rows = rows_of(tmp_path / "out")
    assert [(row["task_id"], row["passed"], row["status"]) for row in rows] == [
        ("HumanEval/1", True, "passed"), ("HumanEval/0", False, "failed"), ("HumanEval/0", False, "timed_out"),
        ("HumanEval/1", True, "passed")]  # fmt: skip
    assert [row["result"] for row in rows[::2]] == ["passed", "timed out"]
    assert rows[1]["result"].startswith("failed: test 1: assert f(0) == 1")
    assert rows[0]["model"] == "m"
    assert report.base is None
    assert "passed_base" not in rows[0]
    assert report.statuses == {"passed": 2, "failed": 1, "timed_out": 1}
    assert "executing humaneval: 4/4" in capsys.readouterr().err
    assert [row["test"] for row in rows] == [None, {"number": 1}, {"number": 1}, None]
    assert (counts(report), report.pass_at_k[1].value) == ({"HumanEval/1": (2, 2), "HumanEval/0": (2, 0)}, 0.5)
    assert list(report.pass_at_k) == [1]


def test_a_finished_folder_is_summed_up_and_nothing_runs_again(tmp_path, monkeypatch):
    samples = write(tmp_path / "samples.jsonl", [sample(0, RIGHT), sample(1, WRONG)] * 2)
    first = scored(samples, tmp_path / "out")
    monkeypatch.setattr(scoring, "SandboxPool", None)
    assert scored(samples, tmp_path / "out") == first
    assert list(scored(samples, tmp_path / "out", ks=[2]).pass_at_k) == [2]


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


def killed_after(monkeypatch, verdicts: int) -> list[int]:
    """Let the next evaluation die in the middle of the line after so many verdicts; returns places as they are kept."""
    kept: list[int] = []
    whole = Journal.add

    def add(journal: Journal, records) -> None:
        (record,) = records
        if len(kept) == verdicts:
            journal._file.write(json.dumps(record).encode()[:20])
            journal._file.flush()
            raise Killed
        kept.append(record["place"])
        whole(journal, [record])

    monkeypatch.setattr(Journal, "add", add)
    return kept


@pytest.mark.parametrize("verdicts", [0, 1, 5])
def test_a_killed_execution_goes_on_where_it_was(tmp_path, monkeypatch, capsys, verdicts):
    samples = write(tmp_path / "samples.jsonl", [sample(i % 2, [RIGHT, WRONG][i % 3 == 0]) for i in range(6)])
    expected = scored(samples, tmp_path / "whole", workers=1)
    with monkeypatch.context() as patch:
        done = killed_after(patch, verdicts)
        with pytest.raises(Killed):
            scored(samples, tmp_path / "out", workers=1)
    assert len(done) == verdicts
    assert not (tmp_path / "out" / "results.jsonl").exists()
    with monkeypatch.context() as patch:
        again = killed_after(patch, 6)
        report = scored(samples, tmp_path / "out", workers=1)
    assert sorted(done + again) == list(range(6))
    assert f"executing humaneval: {verdicts}/6" in capsys.readouterr().err
    assert (report.pass_at_k, report.problems) == (expected.pass_at_k, expected.problems)
    timeless = [[{**row, "seconds": 0} for row in rows_of(tmp_path / name)] for name in ("whole", "out")]
    assert timeless[0] == timeless[1]
    assert not (tmp_path / "out" / "results.jsonl.partial").exists()


def test_other_limits_execute_again_and_say_so(tmp_path, capsys):
    samples = write(tmp_path / "samples.jsonl", [sample(0, "    while True: pass"), sample(1, RIGHT)])
    scored(samples, tmp_path / "out", cpu_seconds=0.1)
    (tmp_path / "out" / "report.json").write_text("{}")
    capsys.readouterr()
    scored(samples, tmp_path / "out", cpu_seconds=0.2)
    assert "executing again, with other options (cpu_seconds: 0.1 → 0.2)" in capsys.readouterr().err
    assert rows_of(tmp_path / "out")[0]["detail"] == "test 1: 0.2 s of CPU time"
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_failing_test_is_shown_with_what_it_gave_and_what_the_program_said(tmp_path):
    task = Problem("x/0", "x", "test", "", tests=(
        TestCase("stdio", "1\n", "1\n"), TestCase("stdio", "9" * 500 + "\n", "2\n")))  # fmt: skip
    samples = write(tmp_path / "samples.jsonl", [{"task_id": "x/0", "completion": "print(input()[:3])"}] * 2)
    report = scored(samples, tmp_path / "out", [task], Benchmark("x"))
    shown = {"number": 2, "input": "9" * 200 + "… (501 characters)", "expected": "2\n"}
    assert [row["test"] for row in rows_of(tmp_path / "out")] == [shown, shown]
    failure = Failure(2, "failed", "test 2: printed '999\\n', expected '2\\n'", "999\n", shown)
    assert report.problems["x/0"].failure == failure


def test_base_tests_have_a_score_of_their_own(tmp_path):
    tests = [TestCase("call", f"({x},)", repr(x + 1), suite="plus" if x > 1 else "base") for x in (3, 0, 2, 1)]
    tasks = [Problem(f"p/{i}", "p", "test", "", entry_point="f", tests=tuple(tests)) for i in range(5)]
    bodies = ["return x + 1", "return x + 1 if x < 2 else 0", "return 0", "return x + 1 if x < 3 else 1 / 0", "retrun"]
    samples = write(tmp_path / "samples.jsonl", [
        {"task_id": f"p/{i}", "solution": f"def f(x): {body}"} for i, body in enumerate(bodies)])  # fmt: skip
    report = scored(samples, tmp_path / "out", tasks, Benchmark("p"))
    assert [row["passed_base"] for row in rows_of(tmp_path / "out")] == [True, True, False, True, False]
    assert [(problem.passed, problem.passed_base) for problem in report.problems.values()] == [
        (1, 1), (0, 1), (0, 0), (0, 1), (0, 0)]  # fmt: skip
    assert (report.pass_at_k[1].value, report.base[1].value) == (0.2, 0.6)
    alone = [replace(task, tests=tuple(test for test in tests if test.suite == "base")) for task in tasks]
    again = scored(tmp_path / "out" / "results.jsonl", tmp_path / "base" / "out", alone, Benchmark("p"))
    assert (again.pass_at_k[1].value, again.base) == (0.6, None)


def test_an_answer_that_is_graded_as_text_needs_no_sandbox(tmp_path, monkeypatch):
    class Sums(Benchmark):
        def grade(self, problem, completion):
            right = completion.strip() == problem.tests[0].output
            return Outcome("passed") if right else Outcome("failed", f"answered {completion!r}", test=1)

    tasks = [Problem(f"s/{i}", "s", "test", "", tests=(TestCase("answer", "", str(i)),)) for i in range(2)]
    samples = write(tmp_path / "samples.jsonl", [{"task_id": f"s/{i}", "completion": " 0"} for i in (1, 0)])
    monkeypatch.setattr(scoring, "SandboxPool", None)
    report = scored(samples, tmp_path / "out", tasks, Sums("s"))
    assert counts(report) == {"s/1": (1, 0), "s/0": (1, 1)}
    assert rows_of(tmp_path / "out")[0]["test"] == {"number": 1, "input": "", "expected": "1"}


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


@pytest.mark.parametrize(
    "program", ["def f(x):\n    return x + 1\n", "from __future__ import annotations\ndef f(x): ...\n"]
)
def test_a_program_that_does_not_continue_the_starter_is_a_whole_solution(tmp_path, program):
    record = {"task_id": "HumanEval/0", **program_key(PROBLEMS[0], program)}
    (found,) = read_samples(write(tmp_path / "samples.jsonl", [record]), PROBLEMS)
    assert (found.text if found.is_whole else PROBLEMS[0].starter + found.text) == program
    assert found.is_whole == program.startswith("from")


def test_problems_without_samples_are_refused_unless_a_part_is_wanted(tmp_path):
    samples = write(tmp_path / "samples.jsonl", [sample(1, RIGHT)])
    with pytest.raises(UserError, match="no sample for 1 of 2 problems, first 'HumanEval/0'"):
        scored(samples, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = scored(samples, tmp_path / "out", partial=True)
    assert counts(report) == {"HumanEval/1": (1, 1)}


def test_a_k_above_the_number_of_samples_is_refused_before_anything_runs(tmp_path):
    samples = write(tmp_path / "samples.jsonl", [sample(0, RIGHT), sample(0, RIGHT), sample(1, RIGHT)])
    with pytest.raises(UserError, match=r"pass@2: .* has only 1 samples of some problem"):
        scored(samples, tmp_path / "out", ks=[2])
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
