"""An evaluation's report: pass@k, what became of the samples, and which problems failed and why."""

import html
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from weighted_mtp.evaluation.pass_at_k import Estimate
from weighted_mtp.evaluation.verdicts import ProblemResult, Report, shortened
from weighted_mtp.sandbox.messages import UNDECIDED
from weighted_mtp.wording import counted

_ON_TERMINAL, _ON_PAGE = 10, 200  # problems that are shown with why they failed
_SHOWN = 160  # characters of a reason, an input, an output


def measures(report: Report) -> list[tuple[str, str, str]]:
    """(name, value, interval) of each measure, then of each status."""
    rows = [
        (f"pass@{k}{tests}", f"{estimate.value:.3f}", f"{estimate.low:.3f} – {estimate.high:.3f}")
        for tests, estimates in (("", report.pass_at_k), (", base tests only", report.base or {}))
        for k, estimate in estimates.items()
    ]
    return rows + [(status.replace("_", " "), f"{n:,}", "") for status, n in report.statuses.items()]


def undecided(report: Report) -> str:
    """What is to be known of samples that neither passed nor failed; "" if there are none."""
    number = report.statuses.get(UNDECIDED, 0)
    if not number:
        return ""
    return (
        f"not compared: {number:,} of the samples, whose values only their own code could compare with what is "
        "expected; pass@k counts them as not passed, `wmtp label` leaves them out, and --explain names the values"
    )


def explanations(report: Report) -> Iterator[str]:
    """One line per sample that did not pass, in the order of `results.jsonl`: how it ended, where, and why."""
    seen: Counter[str] = Counter()
    with report.results.open(encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            seen[record["task_id"]] += 1
            if not record["passed"]:
                yield f"{record['task_id']}, sample {seen[record['task_id']]}: {_explained(record)}"


def _explained(record: Mapping[str, Any]) -> str:
    test = record["test"] or {}
    given = f"; input {_line(test['input'])}, expected {_line(test['expected'])}" if "input" in test else ""
    return f"{record['status'].replace('_', ' ')}: {record['detail']}{given}"


def failures(report: Report) -> list[tuple[str, ProblemResult]]:
    """Problems of which not all samples passed, those of which fewest passed first."""
    failed = [(name, problem) for name, problem in report.problems.items() if problem.failure is not None]
    return sorted(failed, key=lambda item: item[1].passed / item[1].samples)


def report_table(report: Report) -> Table:
    """The measures for a terminal."""
    table = Table(title=_title(report), title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for row in measures(report):
        table.add_row(*row)
    return table


def failures_table(report: Report) -> Table:
    """The first failed problems for a terminal, a line or two each."""
    shown = failures(report)
    table = Table(title=_failures_title(len(shown), _ON_TERMINAL), title_justify="left")
    table.add_column("problem", overflow="fold")
    table.add_column("passed", justify="right", no_wrap=True)
    table.add_column("why most of the others did not", overflow="fold")
    for name, problem in shown[:_ON_TERMINAL]:
        table.add_row(escape(name), _passed(problem), escape(_line(_reason(problem))))
    return table


def report_markdown(report: Report, facts: Sequence[str]) -> str:
    """The whole page: `facts` on how it was evaluated, measures, failed problems with test and last output."""
    shown = failures(report)
    lines = [f"# {_title(report)}", "", *(f"- {html.escape(fact, quote=False)}" for fact in facts), ""]
    lines += _markdown(("measure", "value", "95 % interval"), measures(report))
    if undecided(report):
        lines += ["", undecided(report) + "."]
    if shown:
        rows = [
            (name, _passed(problem), _reason(problem), *_test(problem), problem.failure.output[-_SHOWN:])
            for name, problem in shown[:_ON_PAGE]
            if problem.failure is not None
        ]
        header = ("problem", "passed", "why most of the others did not", "input", "expected", "last output")
        lines += ["", f"## {_failures_title(len(shown), _ON_PAGE)}", "", *_markdown(header, rows)]
    return "\n".join([*lines, "", f"Every program and its verdict: `{report.results.name}`."]) + "\n"


def summary(report: Report) -> dict[str, Any]:
    """The report for machines."""
    has_base = report.base is not None
    return {
        "pass_at_k": _estimates(report.pass_at_k),
        **({"pass_at_k_base": _estimates(report.base)} if report.base is not None else {}),
        "problems": len(report.problems),
        "samples": sum(problem.samples for problem in report.problems.values()),
        "statuses": report.statuses,
        "per_problem": {name: _counts(problem, has_base) for name, problem in report.problems.items()},
    }


def _estimates(estimates: Mapping[int, Estimate]) -> dict[str, Any]:
    return {str(k): asdict(estimate) for k, estimate in estimates.items()}


def _counts(problem: ProblemResult, has_base: bool) -> dict[str, int]:
    of_base = {"passed_base": problem.passed_base} if has_base else {}
    return {"samples": problem.samples, "passed": problem.passed, **of_base}


def _title(report: Report) -> str:
    return f"{report.benchmark}: {counted(len(report.problems), 'problem')}"


def _failures_title(number: int, most: int) -> str:
    which = f"; the worst {most}" if number > most else ""
    return f"{counted(number, 'problem')} with failed samples{which}"


def _passed(problem: ProblemResult) -> str:
    return f"{problem.passed} of {problem.samples}"


def _reason(problem: ProblemResult) -> str:
    assert problem.failure is not None
    failure = problem.failure
    alike = f" ({failure.samples} alike)" if failure.samples > 1 else ""
    return f"{failure.status.replace('_', ' ')}{alike}: {failure.detail}"


def _test(problem: ProblemResult) -> tuple[str, str]:
    test = problem.failure.test if problem.failure is not None else None
    return (test.get("input", ""), test.get("expected", "")) if test else ("", "")


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]


def _cell(text: str) -> str:
    return html.escape(_line(text), quote=False).replace("|", r"\|")


def _line(text: str) -> str:
    return shortened(" ".join(text.split()), _SHOWN)
