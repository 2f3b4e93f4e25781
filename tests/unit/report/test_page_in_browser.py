"""Pages in a browser, where there is one: their scripts run without a complaint, and find what is looked for."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from weighted_mtp.pipelines.report_page import write_report_page
from weighted_mtp.report.token_page import ShownProgram, ShownPrograms, Token, View, write_token_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


def opened(page: Path, fragment: str = "") -> str:
    """The page after its script ran. Fails on whatever the console says, refused requests included."""
    assert BROWSER is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [BROWSER, *flags, profile, f"{page.as_uri()}{fragment}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    return done.stdout


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 2,000 programs, of which every second one passes."""
    folder = tmp_path_factory.mktemp("evaluation")
    records = [
        {"task_id": f"p/{n}", "completion": f"def f{n}(): return '<b>'", "passed": n % 2 == 0} for n in range(2000)
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    report = {"config": {"benchmark": "b"}, "pass_at_k": {}, "problems": 2000, "samples": 2000}
    (folder / "report.json").write_text(json.dumps(report | {"statuses": {"passed": 1000, "failed": 1000}}))
    return write_report_page(folder, folder / "page.html")


@pytest.mark.parametrize(
    ("fragment", "where", "first"),
    [
        ("", "programs 1–20 of 2000", "f0"),
        ("#page=100", "programs 1981–2000 of 2000", "f1980"),
        ("#page=999", "programs 1981–2000 of 2000", "f1980"),
        ("#status=!passed&page=2", "programs 21–40 of 1000", "f41"),
        ("#search=DEF F199&status=failed", "programs 1–6 of 6", "f199"),
    ],
)
def test_programs_are_searched_and_paged(evaluation: Path, fragment: str, where: str, first: str) -> None:
    page = opened(evaluation, fragment)
    assert f">{where}</output>" in page
    assert re.findall(r">def (f\d+)\(\): return '&lt;b&gt;'</pre>", page)[0] == first


def test_the_script_of_shaded_programs_runs(tmp_path: Path) -> None:
    program = ShownProgram("p", "t", True, (Token("a", (2.0,)), Token("b", (0.5,))))
    write_token_page(tmp_path / "page.html", "t", ShownPrograms([], [View("weight", "", 0.1, 1.0, 3.0)], [program]))
    assert '<pre class="tokens"' in opened(tmp_path / "page.html")
