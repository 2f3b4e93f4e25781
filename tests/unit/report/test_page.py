"""Pages to send: what a program says is shown and cannot run, and a page asks the network for nothing."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.pass_at_k import Estimate
from weighted_mtp.pipelines.report_page import write_report_page
from weighted_mtp.report.figures import Interval, curves, intervals

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&<!--\u202e\x00\u2028"
ESTIMATE = {"value": 0.5, "low": 0.25, "high": 0.75, "confidence": 0.95}


class Page(HTMLParser):
    """Elements with attributes, and the text of each script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", {}))

    @property
    def data(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.scripts[0])
        return found


def check_nothing_outside(page: Page) -> None:
    loading = [
        (tag, name, value)
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "srcset", "poster") or name.startswith("on")
    ]
    assert loading == []
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page.text)
    assert {tag for tag, _ in page.elements} & {"link", "iframe", "img", "object", "embed", "base"} == set()
    policy = next(a["content"] or "" for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    for script in page.scripts[1:]:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def evaluation(folder: Path, texts: Sequence[str], passed: int = 0) -> Path:
    """A finished evaluation: a problem's programs, of which the first `passed` pass."""
    records = []
    for number, text in enumerate(texts):
        is_right = number < passed
        test = {"number": 2, "input": f"({number}, {text!r})", "expected": text}
        record = {"task_id": text[:60] or "p", "completion": text, "passed": is_right, "output": text, "detail": text}
        records.append({**record, "status": "passed" if is_right else "timed_out", "test": None if is_right else test})
    folder.mkdir()
    (folder / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = {"benchmark": texts[0], "output": str(folder), "checkpoint": "c", "split": "test", "first": 3}
    report = {"config": config, "pass_at_k": {"1": ESTIMATE}, "problems": 1, "samples": len(texts)}
    statuses = {"timed_out": len(texts) - passed, "passed": passed}
    (folder / "report.json").write_text(json.dumps({**report, "statuses": statuses}))
    return folder


def test_a_programs_text_cannot_run(tmp_path: Path) -> None:
    page = Page(write_report_page(evaluation(tmp_path / "e", [HOSTILE]), tmp_path / "page.html"))
    check_nothing_outside(page)
    assert len(page.scripts) == 2, "the data, and the page's own script"
    assert "alert(" not in page.scripts[1]
    assert "\u202e" not in page.text
    [program] = page.data
    assert program["program"].startswith("</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&<!--")
    assert program["program"].endswith(r"\u202e\x00\u2028"), "spelled out"


def test_two_thousand_programs_parse_back(tmp_path: Path) -> None:
    texts = [f"def f{n}():\n\treturn {n}" for n in range(2000)]
    page = Page(write_report_page(evaluation(tmp_path / "e", texts, passed=700), tmp_path / "page.html"))
    check_nothing_outside(page)
    assert [program["program"] for program in page.data] == [text.replace("\t", "    ") for text in texts]
    assert sum(program["status"] == "passed" for program in page.data) == 700
    failed = page.data[1999]
    assert (failed["status"], failed["number"], failed["expected"]) == (
        "timed out",
        "2",
        "def f1999():\n    return 1999",
    )
    assert failed["input"].startswith("(1999, ")
    assert failed["output"] == failed["expected"]


def test_an_evaluation_shows_its_numbers_and_only_the_options_that_differ(tmp_path: Path) -> None:
    text = write_report_page(evaluation(tmp_path / "e", ["a", "b"], 1), tmp_path / "page.html").read_text()
    assert "0.500 [0.250, 0.750]" in text
    assert '<th scope="row">first</th><td>3</td>' in text
    assert '<th scope="row">split</th>' not in text, "it has its default"
    assert '<th scope="row">timed out</th><td>1</td>' in text
    assert "prefers-color-scheme:dark" in text
    assert "@media print" in text


@pytest.mark.parametrize(("remove", "says"), [("results.jsonl", "is not finished"), ("report.json", "cannot be read")])
def test_an_unfinished_evaluation_is_refused(tmp_path: Path, remove: str, says: str) -> None:
    folder = evaluation(tmp_path / "e", ["a"])
    (folder / "evaluation.json").touch()
    (folder / remove).unlink()
    with pytest.raises(UserError, match=says):
        write_report_page(folder, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the folder of"):
        write_report_page(tmp_path, tmp_path / "page.html")


def test_an_interval_lies_where_its_numbers_say() -> None:
    figure = intervals([Interval("<b>", Estimate(0.5, 0.0, 1.0), (0.25,))], 0.0, 1.0)
    [x1, x2] = re.findall(r'class="interval" x1="([\d.]+)"[^>]* x2="([\d.]+)"', figure)[0]
    [dot] = re.findall(r'cx="([\d.]+)"', figure)
    assert float(dot) == pytest.approx(float(x1) + (float(x2) - float(x1)) / 4, abs=0.2)
    assert "&lt;b&gt;" in figure
    assert "<b>" not in figure


def test_a_curve_of_one_point_and_a_level_one_are_drawn() -> None:
    assert "<polyline" in curves({"one": {5: 0.0}})
    assert "nan" not in curves({"level": {1: 2.0, 2: 2.0}, "one": {1: 2.0}})
