"""The code blocks of an answer in Markdown, as CommonMark has them and as models write them."""

import functools
import html
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Literal

from weighted_mtp.evaluation.extraction.lines import Line, runs, separated
from weighted_mtp.evaluation.extraction.source import Source, parse, split_lines, syntax_error

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

Label = Literal["python", "", "markdown", "other"]

# Blocks only, and of those what can hold a fence. HTML is left out on purpose: a fence under a line that is a tag
# (`<answer>`) would be a part of it.
_COMMONMARK = ("fence", "code", "blockquote", "list")

# Fences however far they are indented, and code that is indented less than its fence.
_FLAT = ("fence",)

_PYTHON = re.compile(r"[{.\s]*(?:language-)?i?py(?:thon|con)?[\d.]*(?![a-z\d])|\S*\.py\b", re.IGNORECASE)
_MARKDOWN = re.compile(r"[{.\s]*(?:markdown|md|mdx)(?![a-z\d])", re.IGNORECASE)
_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})")
_DEEP_FENCE = re.compile(r"^(?: {4}|[ \t]*\t)[ \t]*(?:`{3}|~{3})", re.MULTILINE)
_NUMBERED = re.compile(r"[ \t]*(\d+)(?:[ \t]*[|:.)]|[ \t]|$)[ \t]?")
_PROMPT = re.compile(r"^\s*>>> ", re.MULTILINE)
_DEEPEST = 3  # blocks of Markdown in blocks of Markdown
_MOST_QUOTED = 8  # fences inside of one program's docstrings, and programs with such


@dataclass(frozen=True)
class Block:
    """The text in a fence.

    label  what its info string says it is; "" if it says nothing
    line   of the answer at which the text begins, from 0
    """

    text: str
    label: Label
    line: int

    @property
    def may_be_python(self) -> bool:
        return self.label in ("python", "")

    @property
    def is_session(self) -> bool:
        """Whether it shows what was typed into an interpreter."""
        return self.source is None and _PROMPT.search(self.text) is not None

    @cached_property
    def source(self) -> Source | None:
        """The text, if it is Python as it stands."""
        return parse(self.text, self.line)


def read_blocks(text: str) -> list[Block]:
    """All blocks, in order. Where a text can be read in several ways, a block of each that is Python.

    In order of trust: as CommonMark (fences of backticks or tildes of any length, in lists and quotes, with attributes,
    unclosed); with fences that end a line of code as if they stood below it; with fences however they are indented.
    """
    lines = list(enumerate(split_lines(text)))
    parts = separated(lines)
    found = list(_blocks(_reader(_COMMONMARK), lines))
    if len(parts) > len(lines):
        found += _blocks(_reader(_COMMONMARK), parts)
    if any(block.may_be_python and block.source is None for block in found) or _DEEP_FENCE.search(text):
        found += _blocks(_reader(_FLAT), _apart(parts))
    first: dict[int, Block] = {}
    for block in found:
        if block.text.strip() and (block.line not in first or (first[block.line].source is None and block.source)):
            first[block.line] = block
    return [first[line] for line in sorted(first)]


@functools.cache
def _reader(rules: tuple[str, ...], kind: str = "block") -> "MarkdownIt":
    """A parser that knows only these rules: for blocks, or for what stands inside a line."""
    from markdown_it import MarkdownIt  # not for who scores programs, in which there is none

    reader = MarkdownIt("zero").enable(list(rules))
    return reader.disable(["inline", "text_join"]) if kind == "block" else reader


def sources(block: Block, depth: int = 0) -> list[Source]:
    """A block as Python: one source; or if it is not, those of the lines in it that are, in order."""
    if block.source is not None:
        return [block.source]
    for text in _readings(block.text):
        if source := parse(text, block.line):
            return [source]
    if block.label != "python" and depth < _DEEPEST and _FENCE.search(block.text):
        inner = [Block(b.text, b.label, b.line + block.line) for b in read_blocks(block.text)]
        if found := [source for b in inner if b.may_be_python for source in sources(b, depth + 1)]:
            return found
    return runs(separated(list(enumerate(split_lines(block.text), block.line))))


def inline_sources(text: str) -> list[Source]:
    """What of an answer's code among words, `like_this()`, is Python."""
    tokens = _reader(("backticks",), "inline").parse(text)
    spans = [span for token in tokens for span in token.children or () if span.type == "code_inline"]
    codes = (re.sub(r"^(?:python3?|py)\s+(?=\S)", "", span.content) for span in spans)
    return [source for code in codes if (source := parse(code))]


def _readings(text: str) -> Iterator[str]:
    """What the text of a block may be that is not Python."""
    yield textwrap.dedent(text)
    yield html.unescape(text)
    if ">>> " in text:
        yield _session(text)
    if re.match(r"\s*\d", text):
        yield _without_numbers(text)


def _session(text: str) -> str:
    """What was typed into an interpreter."""
    from doctest import DocTestParser  # which imports unittest

    try:
        return "".join(example.source for example in DocTestParser().get_examples(text))
    except ValueError:
        return ""


def _without_numbers(text: str) -> str:
    """A listing without the numbers of its lines; "" if they are not consecutive."""
    lines = [line for line in split_lines(text) if line.strip()]
    found = [_NUMBERED.match(line.rstrip("\r\n")) for line in lines]
    numbers = [int(match[1]) for match in found if match and len(match[1]) < 7]
    if numbers != list(range(numbers[0], numbers[0] + len(lines)) if numbers else ()):
        return ""
    return "".join(line[match.end() :].rstrip("\r\n") + "\n" for line, match in zip(lines, found, strict=True) if match)


def _apart(parts: Iterable[Line]) -> list[Line]:
    """Lines with an empty one before each fence whose indentation would make it continue a paragraph."""
    return [part for n, line in parts for part in ([(n, "\n"), (n, line)] if _DEEP_FENCE.match(line) else [(n, line)])]


def _blocks(reader: "MarkdownIt", parts: Sequence[Line]) -> Iterator[Block]:
    """The blocks of lines.

    A fence inside of a docstring ends a block of Markdown, which then is no Python: such a block reaches to a later
    fence, and what follows is read again.
    """
    lines, start = [line for _, line in parts], 0
    for _ in range(_MOST_QUOTED):
        for token in reader.parse("".join(lines[start:])):
            if token.type != "fence" or token.map is None:
                continue
            first, after = (start + number for number in token.map)
            here = parts[min(first + 1, len(parts) - 1)][0]
            block = Block(_content(token, lines[first + 1 : after]), _label(token.info), here)
            if (end := _real_end(block, token, lines[first + 1 :], after - first - 1)) is not None:
                yield Block("".join(lines[first + 1 : first + 1 + end]), block.label, here)
                start = first + 1 + end + 1
                break
            yield block
        else:
            return


def _content(token: "Token", lines: Sequence[str]) -> str:
    """A fence's content with the line ends that it has in the answer, of which Markdown knows one kind."""
    n_lines = token.content.count("\n")
    content = "".join(lines[:n_lines])
    same = re.sub(r"\r\n?", "\n", content) == token.content
    return content if same else token.content


def _real_end(block: Block, token: "Token", lines: Sequence[str], after: int) -> int | None:
    """How many of the lines from its first on are of a block whose docstring quotes a fence; None if it is no such
    block. `after` are those up to and with the fence that seemed to close it."""
    if token.level > 0 or not block.may_be_python or block.source is not None:
        return None
    error = syntax_error(block.text)
    if error is None or "unterminated triple-quoted" not in error.msg:
        return None
    ends = (number for number in range(after, len(lines)) if _FENCE.match(lines[number]))
    return next((end for end in [*islice(ends, _MOST_QUOTED), len(lines)] if parse("".join(lines[:end]))), None)


def _label(info: str) -> Label:
    info = info.strip()
    if not info:
        return ""
    if _PYTHON.match(info):
        return "python"
    return "markdown" if _MARKDOWN.match(info) else "other"
