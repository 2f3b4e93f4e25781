"""`wmtp evaluate` as a user types it: killed and resumed, repeated, refused, and what it says and leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from weighted_mtp.cli import app
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.sandbox.confinement import offered

# A command that is killed for good in the middle of the line that follows so many.
KILLED = """
import json, os, signal, sys
from weighted_mtp.cli import app
from weighted_mtp.evaluation.journal import Journal
whole, name, left = Journal.add, sys.argv[1], int(sys.argv[2])
def add(journal, records):
    global left
    records = list(records)
    if journal.path.name == name and len(records) > left:
        whole(journal, records[:left])
        journal._file.write(json.dumps(records[left]).encode()[:9])
        journal._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    left -= len(records) if journal.path.name == name else 0
    whole(journal, records)
Journal.add = add
app(sys.argv[3:])
"""


@pytest.fixture
def samples(data: Path, tmp_path: Path) -> Path:
    """Two a problem: its first correct solution, and nothing."""
    solutions = {s.problem_id: s.code for s in read_solutions(data / "micro" / "test") if s.is_correct}
    file = tmp_path / "mine.jsonl"
    rows = [
        {"task_id": problem.problem_id, "completion": text}
        for problem in read_problems(data / "micro" / "test")
        for text in (solutions[problem.problem_id], "")
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def wmtp(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def asked(data: Path, model: Path, output: Path, *more: str) -> list[str]:
    """A command that samples 24 completions in batches of 5."""
    options = ["evaluate", "--benchmark", "micro", "--data-root", data, "--checkpoint", model, "--output", output]
    drawing = ["--n-samples", "2", "--temperature", "1", "--max-new-tokens", "9", "--batch-size", "5"]
    return [str(option) for option in [*options, *drawing, *more]]


def scored(data: Path, samples: Path, output: Path, *more: str) -> Result:
    options = ["--data-root", data, "--samples", samples, "--output", output, *more]
    return wmtp("evaluate", "--benchmark", "micro", *options)


def error_of(result: Result) -> str:
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


def timeless(output: Path) -> list[dict]:
    return [{**json.loads(row), "seconds": 0} for row in (output / "results.jsonl").read_text().splitlines()]


def test_an_evaluation_killed_at_both_stages_ends_like_one_that_was_not(
    data: Path, model: Path, tmp_path: Path
) -> None:
    assert wmtp(*asked(data, model, tmp_path / "whole")).exit_code == 0
    command = asked(data, model, tmp_path / "out")
    for name, lines in (("samples.jsonl.partial", 7), ("results.jsonl.partial", 5)):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, name, str(lines), *command], capture_output=True, text=True
        )
        assert done.returncode == -9, done.stderr
        assert (tmp_path / "out" / name).read_bytes().count(b"\n") == lines
    assert "sampling micro: 5/24" in done.stderr
    result = wmtp(*command)
    assert result.exit_code == 0, result.output
    assert "sampling" not in result.stderr
    assert "executing micro: 5/24" in result.stderr
    whole, resumed = ((tmp_path / name / "samples.jsonl").read_bytes() for name in ("whole", "out"))
    assert whole == resumed
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.partial"))


def test_answers_end_before_the_stops_that_are_given(data: Path, model: Path, tmp_path: Path) -> None:
    stops = [part for letter in "aeins" for part in ("--stop", letter)]
    assert wmtp(*asked(data, model, tmp_path / "out", *stops)).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert "stop" in {row["finished"] for row in rows}
    assert not any(set("aeins") & set(row["text"]) for row in rows)
    described = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert described["origin"]["sampling"]["stop"] == list("aeins")


def under_torchrun(folder: Path, ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`KILLED` on so many ranks; journals of ranks after the first end in their numbers."""
    script = folder / "killed.py"
    script.write_text(KILLED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*torchrun, script, *arguments], capture_output=True, text=True, env=environment)


def test_an_evaluation_on_ranks_that_are_killed_ends_like_one_on_a_single_rank(
    data: Path, model: Path, tmp_path: Path
) -> None:
    assert wmtp(*asked(data, model, tmp_path / "whole")).exit_code == 0
    command = asked(data, model, tmp_path / "out")
    killed = under_torchrun(tmp_path, 2, "samples.jsonl.partial-1", "7", *command)
    assert killed.returncode != 0
    assert (tmp_path / "out" / "samples.jsonl.partial-1").read_bytes().count(b"\n") == 7, killed.stderr
    assert not (tmp_path / "out" / "samples.jsonl").exists()
    killed = under_torchrun(tmp_path, 3, "results.jsonl.partial-2", "3", *command)
    assert killed.returncode != 0
    assert (tmp_path / "out" / "results.jsonl.partial-2").read_bytes().count(b"\n") == 3, killed.stderr
    result = wmtp(*command)
    assert result.exit_code == 0, result.output
    whole, resumed = ((tmp_path / name / "samples.jsonl").read_bytes() for name in ("whole", "out"))
    assert whole == resumed
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.partial*"))


def test_ranks_that_nothing_disturbs_report_once(data: Path, samples: Path, tmp_path: Path) -> None:
    assert scored(data, samples, tmp_path / "whole").exit_code == 0
    options = ["evaluate", "--benchmark", "micro", "--data-root", data, "--samples", samples]
    command = [str(option) for option in [*options, "--output", tmp_path / "out"]]
    done = under_torchrun(tmp_path, 2, "none", "0", *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pass@1") == 1
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "out")
    reports = [json.loads((tmp_path / name / "report.json").read_text())["pass_at_k"] for name in ("whole", "out")]
    assert reports[0] == reports[1]


def test_it_says_what_is_done_and_leaves_a_page_of_what_failed_and_why(
    data: Path, samples: Path, tmp_path: Path
) -> None:
    result = scored(data, samples, tmp_path / "out", "--workers", "2", "--cpu-seconds", "3", "--k", "1", "--k", "2")
    assert result.exit_code == 0, result.output
    for fact in (
        "benchmark: micro/test, 12 problems",
        f"samples: {samples}",
        f"execution: 2 programs at once, isolated by {offered()}",
        "limits of a program: CPU time 3 s, memory 1024 MiB unless a problem says otherwise",
        f"output: {tmp_path / 'out'}",
    ):
        assert fact in result.stderr.splitlines()
    assert "12 problems with failed samples; the worst 10" in result.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {k: found["value"] for k, found in report["pass_at_k"].items()} == {"1": 0.5, "2": 1.0}
    assert report["per_problem"]["micro/test/0"] == {"samples": 2, "passed": 1}
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| pass@1 | 0.500 | 0.379 – 0.621 |" in page
    assert page.count("| 1 of 2 |") == 12


def test_a_finished_evaluation_is_only_summed_up_again(
    data: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scored(data, samples, tmp_path / "out").exit_code == 0
    monkeypatch.setattr("weighted_mtp.evaluation.score.SandboxPool", None)
    result = scored(data, samples, tmp_path / "out", "--k", "2")
    assert result.exit_code == 0, result.output
    assert "pass@2" in result.stdout
    assert "executing" not in result.stderr


def test_a_folder_of_other_samples_is_refused_and_stays(data: Path, model: Path, samples: Path, tmp_path: Path) -> None:
    assert wmtp(*asked(data, model, tmp_path / "out")).exit_code == 0
    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    assert "sampling.seed: 0 → 3" in error_of(wmtp(*asked(data, model, tmp_path / "out", "--seed", "3")))
    assert "holds an evaluation of other samples" in error_of(scored(data, samples, tmp_path / "out"))
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "3"], "--k 3 needs --n 3 or more, and n is 2"),
        (["--partial"], "--partial has no effect without --samples"),
        (["--workers", "0"], "`workers`: Input should be greater than or equal to 1"),
        (["--split", "nowhere"], "problems.parquet does not exist"),
        (["--packages", "numpy,nowhere"], "packages: nothing called nowhere can be imported here"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_is_sampled(
    data: Path, model: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    assert message in error_of(wmtp(*asked(data, model, tmp_path / "out", *options)))
    assert not (tmp_path / "out").exists()


def test_some_problems_alone_are_scored_where_that_is_wanted(data: Path, samples: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(samples.read_text().splitlines(keepends=True)[:6]))
    assert "no sample for 9 of 12 problems" in error_of(scored(data, few, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert scored(data, few, tmp_path / "out", "--partial").exit_code == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["problems"] == 3


def test_values_that_cannot_be_compared_are_an_outcome_of_their_own_that_is_explained(
    data: Path, tmp_path: Path
) -> None:
    problem, other = list(read_problems(data / "micro" / "test"))[:2]
    answers = {
        problem: f"class A:\n    def __eq__(self, o): return True\ndef {problem.entry_point}(*a): return A()\n",
        other: f"def {other.entry_point}(*a): return 'nothing'\n",
    }
    file = tmp_path / "mine.jsonl"
    rows = [{"task_id": problem.problem_id, "solution": program} for problem, program in answers.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = scored(data, file, tmp_path / "out", "--partial", "--explain")
    assert result.exit_code == 0, result.output
    first, second = timeless(tmp_path / "out")
    assert (first["status"], first["passed"]) == ("cannot_be_compared", False)
    assert first["result"] == f"cannot be compared: {first['detail']}"
    assert f"{problem.problem_id}, sample 1: cannot be compared: test 1: A object and" in result.output
    assert "not compared: 1 of the samples" in (tmp_path / "out" / "report.md").read_text()
    assert second["status"] == "failed"
    assert f"{other.problem_id}, sample 1: failed: test 1: AssertionError: returned 'nothing'," in result.output


def test_programs_import_a_package_where_that_is_allowed_and_other_packages_execute_again(
    data: Path, tmp_path: Path
) -> None:
    problem = next(iter(read_problems(data / "micro" / "test")))
    right = next(s.code for s in read_solutions(data / "micro" / "test") if s.is_correct)
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"task_id": problem.problem_id, "solution": f"import numpy\n{right}"}) + "\n")
    assert scored(data, file, tmp_path / "out", "--partial").exit_code == 0
    assert "No module named 'numpy'" in timeless(tmp_path / "out")[0]["detail"]
    result = scored(data, file, tmp_path / "out", "--partial", "--packages", "numpy")
    assert result.exit_code == 0, result.output
    assert "programs may import numpy" in result.stderr
    assert timeless(tmp_path / "out")[0]["status"] == "passed"
