"""Links between documents lead somewhere, and both READMEs name the same commands."""

import re
from pathlib import Path

import pytest

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
