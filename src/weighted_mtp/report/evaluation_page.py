"""The page of an evaluation: options, pass@k, outcomes, and every program with its verdict, to be searched."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weighted_mtp.data.sources.rows import read_rows
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.pass_at_k import Estimate
from weighted_mtp.report.figures import Interval, in_words, intervals
from weighted_mtp.report.links import Link
from weighted_mtp.report.page import visible, write_html
from weighted_mtp.wording import counted

TEXTS = {"completion": "program", "solution": "program", "detail": "detail", "output": "output"}
"""Key of results.jsonl → key in the page's data."""
_STATEMENT = 2000  # characters of a problem's text
_COMPARED = re.compile(r"test \d+: (?:AssertionError: )?(returned|printed) (.*), expected .*", re.DOTALL)


def read_report(folder: Path) -> dict[str, Any]:
    """What `report.json` holds. Raises UserError if it cannot be read."""
    try:
        report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        report["config"], report["pass_at_k"], report["statuses"]  # what the page cannot do without
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'report.json'}: cannot be read; evaluate again with `wmtp evaluate`") from error
    return report


def write_evaluation_page(
    folder: Path,
    report: Mapping[str, Any],
    options: Mapping[str, Any],
    output: Path,
    links: Sequence[Link] = (),
    statements: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of a finished evaluation.

    report      of `read_report`
    options     those that differ from their defaults
    statements  problem → what is asked, of those that are known

    Raises UserError if `results.jsonl` is missing or damaged.
    """
    config = report["config"]
    measured = _measures(report)
    programs = read_programs(folder)
    size = f"{counted(report['problems'], 'problem')}, {counted(report['samples'], 'program')}"
    values = {
        "title": f"{config['benchmark']}: {size}",
        "kind": "evaluation",
        "options": options,
        "measures": [(row.label, in_words(row.estimate)) for row in measured],
        "figure": intervals(measured, 0.0, 1.0),
        "statuses": {name.replace("_", " "): number for name, number in report["statuses"].items()},
        "problems": _solved(programs),
        "programs": programs,
        "statements": {visible(task): _shortened(visible(text)) for task, text in (statements or {}).items()},
        "links": links,
    }
    return write_html(output, "evaluation.html", values, "programs.js")


def _shortened(text: str) -> str:
    return text if len(text) <= _STATEMENT else f"{text[:_STATEMENT]} …"


def _solved(programs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many problems are solved by all of their samples, by some, by none."""
    shares: dict[str, list[bool]] = {}
    for program in programs:
        shares.setdefault(program["task"], []).append(program["status"] == "passed")
    words = Counter("all" if all(own) else "some" if any(own) else "none" for own in shares.values())
    return {f"solved by {word} of their samples": words[word] for word in ("all", "some", "none")}


def _measures(report: Mapping[str, Any]) -> list[Interval]:
    kinds = (("", report["pass_at_k"]), (", base tests only", report.get("pass_at_k_base") or {}))
    return [Interval(f"pass@{k}{tests}", Estimate(**own)) for tests, found in kinds for k, own in found.items()]


def read_programs(folder: Path) -> list[dict[str, Any]]:
    """Every program of `results.jsonl` with its verdict, in the order of the file, as the page's script reads them."""
    file = folder / "results.jsonl"
    if not file.is_file():
        raise UserError(f"{folder}: its evaluation is not finished; the same `wmtp evaluate` resumes it")
    seen: dict[str, int] = {}
    found = []
    for row in read_rows(file, {"task_id": str | int, "passed": bool}):
        task = str(row.values["task_id"])
        seen[task] = seen.get(task, 0) + 1
        found.append(_program(task, seen[task], row.values))
    return found


def _program(task: str, number: int, record: Mapping[str, Any]) -> dict[str, Any]:
    status = record.get("status") or ("passed" if record["passed"] else "failed")
    test = record.get("test") or {}
    texts = {name: visible(str(record[key])) for key, name in TEXTS.items() if record.get(key)}
    asked = {key: visible(str(test[key])) for key in ("number", "input", "expected") if key in test}
    if compared := _COMPARED.fullmatch(texts.get("detail", "")):  # what it gave stands beside what was expected
        texts["actual"] = compared[2]
        texts["detail"] = f"test {asked.get('number', '')}: {compared[1]} something else"
    return {"task": visible(task), "sample": number, "status": status.replace("_", " "), **texts, **asked}
