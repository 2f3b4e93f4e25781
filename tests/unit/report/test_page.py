"""Pages to send: what a program says is shown and cannot run, and a page asks the network for nothing."""

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from weighted_mtp.data.preparation.prepare import prepare
from weighted_mtp.data.preparation.registry import own_dataset
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.pass_at_k import Estimate
from weighted_mtp.pipelines.report_page import write_report_page
from weighted_mtp.report.comparison import compare
from weighted_mtp.report.figures import Interval, curves, intervals
from weighted_mtp.report.run_page import panels_of

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
        if not (tag == "a" and re.fullmatch(r"[\w./%-]*page\.html", value or ""))  # a file beside it
    ]
    assert loading == []
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page.text.replace("../", ""))
    assert {tag for tag, _ in page.elements} & {"link", "iframe", "img", "object", "embed", "base"} == set()
    policy = next(a["content"] or "" for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    for script in page.scripts[-1:]:
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
    assert len(page.scripts) == 3, "the programs, what is asked, and the page's own script"
    assert "alert(" not in page.scripts[2]
    assert "\u202e" not in page.text
    [program] = page.data
    assert program["program"].startswith("</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&<!--")
    assert program["program"].endswith(r"\u202e\x00\u2028"), "spelled out"


def test_what_a_problem_asks_is_on_the_page_where_its_dataset_is_there(tmp_path: Path) -> None:
    row = {"id": "p", "prompt": HOSTILE.replace("\x00", ""), "completion": "x", "split": "test"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    prepare(own_dataset("mine"), tmp_path, tmp_path / "mine.jsonl")
    folder = evaluation(tmp_path / "e", ["x"])
    report = json.loads((folder / "report.json").read_text())
    for root, asked in ((tmp_path / "datasets", ["mine/p"]), (tmp_path / "gone", [])):
        report["config"] |= {"benchmark": "mine", "data_root": str(root)}
        (folder / "report.json").write_text(json.dumps(report))
        page = Page(write_report_page(folder, tmp_path / "page.html"))
        check_nothing_outside(page)
        statements = json.loads(page.scripts[1])
        assert [*statements] == asked
        assert all(text.startswith("</script><script>alert(1)") for text in statements.values())


def test_two_thousand_programs_parse_back(tmp_path: Path) -> None:
    texts = [f"def f{n}():\n\treturn {n}" for n in range(2000)]
    page = Page(write_report_page(evaluation(tmp_path / "e", texts, passed=700), tmp_path / "page.html"))
    check_nothing_outside(page)
    assert [program["program"] for program in page.data] == [text.replace("\t", "    ") for text in texts]
    assert sum(program["status"] == "passed" for program in page.data) == 700
    assert '<th scope="row">solved by none of their samples</th><td>1,300</td>' in page.text
    failed = page.data[1999]
    assert (failed["status"], failed["number"], failed["expected"]) == (
        "timed out",
        "2",
        "def f1999():\n    return 1999",
    )
    assert failed["input"].startswith("(1999, ")
    assert failed["output"] == failed["expected"]


@pytest.mark.parametrize(
    ("detail", "actual"),
    [
        ("test 2: AssertionError: returned [1, 2], expected [1]", "[1, 2]"),
        ("test 2: printed 'a, expected b\\n', expected 'c\\n'", "'a, expected b\\n'"),
        ("test 2: TypeError: unsupported operand", None),
    ],
)
def test_what_a_program_gave_stands_beside_what_was_expected(tmp_path: Path, detail: str, actual: str | None) -> None:
    folder = evaluation(tmp_path / "e", ["p"])
    record = json.loads((folder / "results.jsonl").read_text()) | {"detail": detail, "status": "failed"}
    (folder / "results.jsonl").write_text(json.dumps(record) + "\n")
    [program] = Page(write_report_page(folder, tmp_path / "page.html")).data
    assert program.get("actual") == actual
    assert (program["detail"] == detail) is (actual is None)
    assert program["expected"] == "p"


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


def study(folder: Path) -> Path:
    """A study of two arms over two seeds, one with a hostile name, whose runs have metrics and times."""
    names = ("uniform", HOSTILE[:40].replace("/", ""))
    counts = {name: [{"p": (4, 1 + n), "q": (4, 2)} for n in range(2)] for name in names}
    comparison = {"sampled at temperature 0": asdict(compare(counts))}
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps(comparison))
    for name, seed in itertools.product(names, (1, 2)):
        run(folder / f"{name}-seed-{seed}")
        (folder / f"{name}-seed-{seed}" / "step.json").write_text('{"seconds": 120.0}')
    return folder


def run(folder: Path) -> Path:
    """A run with metrics of two heads, of training and validation."""
    records = [
        {"step": step, "split": split, "ce/head1": 1.5 / step, "ce/head2": 2.0, "seconds": 0.5, "pair_accuracy": 0.75}
        for step in (1, 2)
        for split in ("train", "validation")
    ]
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "config.yaml").write_text("pipeline: baseline\nrun: {name: r, seed: 21}\noptim: {lr: 0.125}\n")
    return folder


def test_a_study_shows_its_finding_dots_critics_and_times(tmp_path: Path) -> None:
    page = Page(write_report_page(study(tmp_path / "s"), tmp_path / "page.html"))
    check_nothing_outside(page)
    assert page.scripts == []
    assert '<tr><th scope="row">optim.lr</th><td>0.125</td></tr>' in page.text, "the same in every arm"
    for fact in ("not distinguishable from", "Over 2 seeds.", "ce/head1 on validation", "0.750", "<td>2.0</td>"):
        assert fact in page.text
    classes = [attributes.get("class") for _, attributes in page.elements]
    assert classes.count("dot") == 2 * 2 + 2, "one per seed of both arms, and of the difference"


def test_options_in_which_arms_differ_stand_in_columns(tmp_path: Path) -> None:
    folder = study(tmp_path / "s")
    (folder / "uniform-seed-1" / "config.yaml").write_text("pipeline: baseline\noptim: {lr: 0.25, seed: 3}\n")
    text = write_report_page(folder, tmp_path / "page.html").read_text()
    assert '<tr><th scope="row">optim.lr</th><td>0.25</td><td>0.125</td></tr>' in text
    assert '<tr><th scope="row">optim.seed</th><td>3</td><td>default</td></tr>' in text
    assert '<th scope="row">run.name</th>' not in text


def links(path: Path) -> dict[str, Path]:
    """Where a page's links lead, by the file's folder."""
    targets = [a["href"] or "" for tag, a in Page(path).elements if tag == "a"]
    places = [(path.parent / unquote(target)).resolve() for target in targets]
    return {place.parent.name: place for place in places}


def test_pages_written_together_lead_to_each_other(tmp_path: Path) -> None:
    folder = study(tmp_path / "a study")
    place = evaluation(folder / "uniform-seed-1" / "evaluation-micro", ["x"])
    report = json.loads((place / "report.json").read_text())
    report["config"]["checkpoint"] = str(folder / "uniform-seed-1")
    (place / "report.json").write_text(json.dumps(report))
    (folder / "uniform-seed-1" / "run.json").write_text("{}")
    top = write_report_page(folder, folder / "page.html", linked=True)
    found = links(top)
    assert {"uniform-seed-1", "uniform-seed-2", "evaluation-micro"} <= found.keys()
    assert len(found) == 5
    assert links(found["evaluation-micro"]).keys() == {"a study", "uniform-seed-1"}
    assert links(found["uniform-seed-1"]).keys() == {"a study", "evaluation-micro"}
    assert all(place.is_file() for page in [top, *found.values()] for place in links(page).values())


def test_a_page_leads_to_none_that_is_not_there(tmp_path: Path) -> None:
    assert links(write_report_page(study(tmp_path / "s"), tmp_path / "s" / "page.html")) == {}


def critic(folder: Path, of_pairs: bool) -> Path:
    """A critic's run with three validations, of which the last two have a filled bin."""
    records = []
    for step in (0, 5, 10):
        bins = {f"calibration/bin{n}/share": 0.0 for n in range(1, 11)} | {"calibration/bin8/share": 1.0}
        filled = {"calibration/bin8/predicted": 0.75, "calibration/bin8/happened": 0.5 + step / 100}
        measured = {
            "pair_accuracy": 0.5,
            "localisation_auc": 0.61,
            "drift": 0.0,
            **({} if of_pairs else {"brier": 0.2}),
        }
        records.append({"step": step, "split": "validation", **measured, **(bins | filled if step else {})})
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "config.yaml").write_text("pipeline: critic\nvalue: {source: somewhere}\n")
    (folder / "run.json").write_text(json.dumps({"pairs": {"train": 900, "validation": 200}}))
    return folder


@pytest.mark.parametrize(("of_pairs", "says"), [(True, "σ(|margin|)"), (False, "P(success) at a token")])
def test_a_critics_page_shows_its_validations_calibration_and_doubts(tmp_path: Path, of_pairs: bool, says: str) -> None:
    page = Page(write_report_page(critic(tmp_path / "c", of_pairs), tmp_path / "page.html"))
    check_nothing_outside(page)
    assert says in page.text
    assert 'aria-label="step 5: 0.75 became 0.55; step 10: 0.75 became 0.60"' in page.text
    assert '<th scope="row">10</th><td>0.500</td><td>0.610</td>' in page.text
    assert "<li>pair_accuracy 0.50 on 200 held-out pairs is no better than chance" in page.text
    assert "calibration/bin" not in page.text, "a figure of its own, not thirty curves"


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it, of `#rgb` or `#rrggbb`."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_texts_can_be_told_from_what_is_behind_them_in_light_and_dark() -> None:
    style = (files("weighted_mtp.report") / "templates" / "page.css").read_text()
    themes = [dict(re.findall(r"--([\w]+):(#[0-9a-f]+|[\d ]+)", part)) for part in style.split("prefers-color-scheme")]
    for theme in (themes[0], themes[0] | themes[1]):
        behind, strength = theme["page"], 0.6  # of a token of full colour
        for name in ("ink", "faint", "blue", "orange"):
            assert contrast(theme[name], behind) >= 4.5, name
        for name in ("c0", "c1", "c2", "c3", "c4", "c5"):
            assert contrast(theme[name], behind) >= 3, name
        for name in ("up", "down"):
            under = [int(behind.ljust(7, "f")[n : n + 2], 16) for n in (1, 3, 5)]
            mixed = [strength * int(c) + (1 - strength) * b for c, b in zip(theme[name].split(), under, strict=True)]
            assert contrast(theme["ink"], "#" + "".join(f"{round(c):02x}" for c in mixed)) >= 4.5, name


def test_a_run_shows_the_options_that_differ_and_a_panel_for_each_metric(tmp_path: Path) -> None:
    page = Page(write_report_page(run(tmp_path / "r"), tmp_path / "page.html"))
    check_nothing_outside(page)
    assert '<th scope="row">optim.lr</th><td>0.125</td>' in page.text
    assert sum(tag == "figure" for tag, _ in page.elements) == 2, "ce of both heads, and pair_accuracy"
    assert "head 1 · validation: from 1.5 to 0.75" in page.text


def test_a_long_curve_keeps_its_last_step() -> None:
    records = [{"step": n, "split": "train", "loss": float(n), "odd": float("nan")} for n in range(1001)]
    [(name, panel)] = panels_of(records).items()
    assert name == "loss"
    [line] = panel.values()
    assert len(line) < 500
    assert max(line) == 1000
