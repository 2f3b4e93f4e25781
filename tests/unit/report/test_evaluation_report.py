"""The page of an evaluation: what it says of problems that failed, and that text from programs stays text."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from weighted_mtp.evaluation.pass_at_k import Estimate
from weighted_mtp.evaluation.verdicts import Failure, ProblemResult, Report
from weighted_mtp.report.evaluation import failures_table, report_markdown, report_table, summary

SHOWN = {"number": 2, "input": "(1,\n2)", "expected": "a|b"}
PROBLEMS = {
    "x/all": ProblemResult(4, 4, 4, None),
    "x/most": ProblemResult(4, 3, 3, Failure(1, "timed_out", "test 1: 5 s of CPU time", "", {"number": 1})),
    "x/[none]": ProblemResult(4, 0, 1, Failure(3, "failed", "test 2: returned <object>", "bye [/x]\n" * 90, SHOWN)),
}


def report(problems: dict[str, ProblemResult] = PROBLEMS, base: dict[int, Estimate] | None = None) -> Report:
    statuses = {"passed": 7, "failed": 4, "timed_out": 1}
    return Report("x", {1: Estimate(0.58, 0.1, 0.9)}, base, problems, statuses, Path("out/results.jsonl"))


def shown(*tables: object) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(*tables)
    return console.file.getvalue()


def test_problems_that_fewest_samples_solve_come_first_and_solved_ones_not_at_all() -> None:
    page = report_markdown(report(), ["asked by <nobody>"])
    assert "- asked by &lt;nobody&gt;\n" in page
    rows = [line for line in page.splitlines() if line.startswith("| x/")]
    assert rows[0].startswith(
        r"| x/[none] | 0 of 4 | failed (3 alike): test 2: returned &lt;object&gt; | (1, 2) | a\|b | "
    )
    assert len(rows[0]) < 400
    assert rows[1] == "| x/most | 3 of 4 | timed out: test 1: 5 s of CPU time |  |  |  |"
    assert len(rows) == 2
    assert "| pass@1 | 0.580 | 0.100 – 0.900 |" in page
    assert "| timed out | 1 |  |" in page


def test_the_terminal_shows_markup_as_it_is() -> None:
    text = shown(report_table(report()), failures_table(report()))
    for part in ("x: 3 problems", "2 problems with failed samples", "x/[none]", "failed (3 alike): test 2"):
        assert part in text


@pytest.mark.parametrize(("number", "lines"), [(10, 10), (25, 10)])
def test_many_failed_problems_are_cut_and_the_title_says_so(number: int, lines: int) -> None:
    many = {f"x/{i:02}": PROBLEMS["x/most"] for i in range(number)}
    text = shown(failures_table(report(many)))
    assert text.count("x/") == lines
    assert ("; the worst 10" in text) is (number > lines)


def test_base_tests_have_their_own_measure_where_there_are_others() -> None:
    both = report(base={1: Estimate(0.75, 0.2, 1.0)})
    assert "| pass@1, base tests only | 0.750 | 0.200 – 1.000 |" in report_markdown(both, [])
    found = json.loads(json.dumps(summary(both)))
    assert found["pass_at_k_base"]["1"]["value"] == 0.75
    assert found["per_problem"]["x/[none]"] == {"samples": 4, "passed": 0, "passed_base": 1}
    plain = summary(report())
    assert "pass_at_k_base" not in plain
    assert plain["per_problem"]["x/most"] == {"samples": 4, "passed": 3}
    assert (plain["problems"], plain["samples"]) == (3, 12)
