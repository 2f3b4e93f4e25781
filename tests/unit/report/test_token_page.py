"""The page and the picture of token weights: programs are shown and never obeyed, scales and layout are right."""

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighted_mtp.report.page import visible
from weighted_mtp.report.token_page import ShownProgram, ShownPrograms, Token, View, write_token_page
from weighted_mtp.report.token_picture import draw_programs, laid_out

VIEWS = [View("weight", "How much.", 0.1, 1.0, 3.0), View("δ", "What the critic says.", -2.0, 0.0, 2.0)]
HOSTILE = '<script>alert(1)</script></pre>\n<img src=x onerror="alert(1)">&amp;\'"'


def program(*texts: str, name: str = "p", task: str = "task") -> ShownProgram:
    return ShownProgram(name, task, True, tuple(Token(text, (1.0, 0.0)) for text in texts))


def page_of(*programs: ShownProgram, views: Sequence[View] = VIEWS, text: str = "t") -> str:
    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        write_token_page(page, text, ShownPrograms([text], views, programs))
        return page.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags of a page, and the text of each `pre`."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.codes: list[str] = []
        self.classes: list[str] = []
        self.styles: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "pre":
            self._inside = True
            self.codes.append("")
        if self._inside and tag == "span":
            self.classes.append(dict(attrs)["class"] or "")
            self.styles.append(dict(attrs)["style"] or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.codes[-1] += data


def test_hostile_text_stays_text_everywhere() -> None:
    shown = ShownProgram(HOSTILE, HOSTILE, False, (Token(HOSTILE, (1.0, 0.0)),), (HOSTILE,))
    page = Page(page_of(shown, views=[View(HOSTILE, HOSTILE, 0.1, 1.0, 3.0), VIEWS[1]], text=HOSTILE))
    assert page.codes == [HOSTILE]
    assert page.tags.count("script") == 1, "the page's own"
    assert "img" not in page.tags
    assert not {name for name in page.attributes if name.startswith("on")}


def test_the_page_needs_nothing_from_outside() -> None:
    page = page_of(program("x = 1"))
    assert not {"link", "iframe"} & set(Page(page).tags)
    assert not {"src", "href"} & Page(page).attributes
    assert "url(" not in page
    assert "default-src 'none'" in page


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=8))
def test_the_whole_program_is_shown_with_nothing_invisible(texts: list[str]) -> None:
    page = Page(page_of(program(*texts)))
    whole = "".join(visible(text) for text in texts)
    assert page.codes == [whole]
    assert all(c.isprintable() or c == "\n" for c in whole)


def test_characters_that_reorder_or_hide_text_are_spelled_out() -> None:
    assert visible("a\u202eb\x00\x1b\u200b\r\n\tc é") == "a\\u202eb\\x00\\x1b\\u200b\\r\n    c é"


def test_known_truth_is_marked() -> None:
    tokens = (Token("a", (1.0,)), Token("b", (2.0,), semantic=True), Token("c", (0.5,), True, True, True))
    page = page_of(ShownProgram("p", "t", False, tokens), views=VIEWS[:1])
    assert Page(page).classes == ["t", "t s", "t s w f"]
    assert "weight 0.5 · semantic · wrong · first difference" in page


def test_a_token_is_shaded_in_every_view_and_said_in_words() -> None:
    page = page_of(ShownProgram("p", "t", True, (Token("a", (2.0, -2.0)), Token("b", (1.0, 1.0)))))
    assert Page(page).styles == ["--v0:0.5;--v1:-1", "--v1:0.5"], "no colour needs no style"
    assert 'title="weight 2 · δ -2"' in page
    assert "body:has(#view1:checked) .t{--a:var(--v1,0)}" in page


@pytest.mark.parametrize(
    ("value", "shade"), [(1.0, 0.0), (3.0, 1.0), (0.1, -1.0), (2.0, 0.5), (0.55, -0.5), (9.0, 1.0), (-9.0, -1.0)]
)
def test_each_side_of_the_scale_reaches_its_own_end(value: float, shade: float) -> None:
    assert VIEWS[0].shade(value) == pytest.approx(shade)


def test_a_scale_without_extent_has_no_colour() -> None:
    assert View("w", "", 1.0, 1.0, 1.0).shade(1.0) == 0.0


def test_the_legend_shows_only_colours_that_occur() -> None:
    assert VIEWS[0].shades(2) == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert View("kept", "", 0.0, 1.0, 1.0).shades(2) == [-1.0, -0.5, 0.0]
    assert View("w", "", 1.0, 1.0, 1.0).shades(2) == [0.0]


def test_lines_are_broken_at_the_last_column_and_cut_at_the_last_line() -> None:
    pieces = laid_out([Token("ab", ()), Token("cdefg\n", ()), Token("", ()), Token("h\ni\nj", ())], columns=4, lines=4)
    assert [(p.line, p.column, p.text) for p in pieces] == [
        (0, 0, "ab"), (0, 2, "cd"), (1, 0, "efg"), (2, 0, "h"), (3, 0, "i"),
    ]  # fmt: skip


def test_the_picture_draws_any_text(tmp_path: Path) -> None:
    shown = [program("x = '$\\frac{1}$", "\u4f60\u202e\x00'\n", "# " + "y" * 200, name="$", task=HOSTILE)]
    draw_programs(tmp_path / "weights.png", VIEWS, shown)
    assert (tmp_path / "weights.png").read_bytes().startswith(b"\x89PNG")


def test_no_program_is_no_reason_to_fail(tmp_path: Path) -> None:
    draw_programs(tmp_path / "weights.png", VIEWS, [program()])
    assert Page(page_of()).codes == []
