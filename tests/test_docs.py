"""Links between documents lead somewhere, and both READMEs name the same commands."""

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT / "docs" / "LOG.md"
OUTCOMES = ("positive", "negative", "mixed", "measured", "fixed", "correction", "superseded")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_or_heading_leads_there(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in headings(target)):
            broken.append(link)
    assert broken == []


def commands(page: Path) -> set[str]:
    """The commands that a page shows, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    shown = {" ".join(line.partition(" #")[0].split()) for line in lines if line.strip() and not line.startswith("#")}
    named = re.findall(r"`uv run (wmtp [a-z]+)", page.read_text())
    return shown | set(named)


def test_both_readmes_name_the_same_commands() -> None:
    assert commands(ROOT / "README.ko.md") == commands(ROOT / "README.md")


def test_every_entry_of_the_log_is_a_heading_that_ends_with_its_outcome() -> None:
    text = LOG.read_text()
    entries = re.findall(r"^### (.*)$", text, flags=re.MULTILINE)
    bold_leads = re.findall(r"^\*\*[A-Z][^*]*\.\*\*", text, flags=re.MULTILINE)
    assert entries
    assert bold_leads == []
    assert [entry for entry in entries if not entry.endswith(tuple(f" ({outcome})" for outcome in OUTCOMES))] == []
    assert len(set(entries)) == len(entries), "two entries would have one anchor"


class SiteLoader(yaml.SafeLoader):
    """Of mkdocs.yml, in which a tag names the function that makes anchors."""


SiteLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(), SiteLoader)


def in_nav(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for below in entry.values() if isinstance(entry, dict) else entry:
            yield from in_nav(below)


def test_the_sites_navigation_has_every_page_once() -> None:
    assert sorted(in_nav(SITE["nav"])) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_api_page_names_what_is_there() -> None:
    named = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "API.md").read_text(), flags=re.MULTILINE)
    for name in named:
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute, None) or importlib.import_module(name)
        assert found.__doc__, name
    assert len(named) > 10


def test_the_tutorials_commands_are_the_readmes_which_a_test_runs() -> None:
    assert commands(ROOT / "docs" / "OWN_DATA.md") <= commands(ROOT / "README.md")


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs mkdocs: uv sync --group docs")
def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<code>critic</code>: a critic's run" in (tmp_path / "API" / "index.html").read_text()
    assert (tmp_path / "examples" / "weighted_loop.py").is_file()


def test_the_image_copies_what_is_there_and_installs_extras_that_exist() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, flags=re.MULTILINE) for name in line.split()]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(copied) == kept
    assert all((ROOT / name).exists() for name in copied)
    assert set(re.findall(r"--extra (\S+)", text)) <= project["project"]["optional-dependencies"].keys()
