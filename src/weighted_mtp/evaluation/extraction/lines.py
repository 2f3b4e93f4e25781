"""Code that stands among prose, without a fence: the runs of lines that are Python."""

import contextlib
import html
import re
from collections.abc import Iterable, Iterator, Sequence

from weighted_mtp.evaluation.extraction.source import Source, is_unfinished, parse, split_lines, syntax_error

_GROWTH = 8  # one line is looked at first, then this many times as many whenever code may continue after their end
_STEPS_BACK = 24  # places before an error at which the code may have ended
_EFFORT = 4  # a text is parsed this many times at most: of what is left then, nothing is found

_GOES_ON = re.compile(r"[)\]}]|(?:else|elif|except|finally)\b")
_HEAD = re.compile(
    r"(?:(?:else|try|finally)|(?:async\s+)?(?:def|class|if|elif|for|while|with|except|match|case)\b.*?)\s*:\s*(?:#.*)?$"
)
_GLUED = re.compile(r"(?P<code>[^`\n]*[^\s`][^`\n]*?)(?P<fence>`{3,}[ \t]*\w*[ \t]*)$")
_TAGS = re.compile(r"\s*(?:</?[a-zA-Z][^<>]*>\s*)+")
_QUOTE = re.compile(r" {0,3}>(?!>> ) ?")
_CLOSING_TAGS = re.compile(r"\s*(?:</[a-zA-Z][^<>]*>\s*)+$")


Line = tuple[int, str]
"""A line with the number, from 0, of the one in the answer that it comes from."""


def runs(lines: Sequence[Line], known: Iterable[Source] = ()) -> list[Source]:
    """The longest runs of lines that are Python, in order; of some it may be known already.

    A run may be indented as a whole, but for what a broken statement has under it: without its head it is other code.
    The time is bounded by that of parsing the text a few times.
    """
    at_line = {source.line: source for source in known}
    found: list[Source] = []
    search = _Search(lines)
    with contextlib.suppress(_TooLong):
        for start, is_under_code in enumerate(_under_code([line for _, line in lines])):
            if start >= search.end and not is_under_code and not _is_blank(lines[start][1]):
                found += filter(None, [search.code_from(start, at_line.get(lines[start][0]))])
    return found


def separated(lines: Sequence[Line]) -> list[Line]:
    """Lines with those fences on lines of their own that stand at the end of a line of code or prose."""
    found: list[Line] = []
    for number, line in lines:
        if "```" in line and (glued := _GLUED.match(line.rstrip())):
            found += [(number, glued["code"] + "\n"), (number, glued["fence"] + "\n")]
        else:
            found.append((number, line))
    return found


def without_tags(lines: Sequence[Line]) -> list[Line]:
    """Lines without the tags that begin or end them, and with `<` for `&lt;` if they are a page's."""
    is_page = any(re.search(r"<(?:pre|code)\b", line) for _, line in lines)
    bare = ((number, _CLOSING_TAGS.sub("\n", _without_leading_tags(line))) for number, line in lines)
    return [(number, html.unescape(line) if is_page else line) for number, line in bare]


def without_quotes(lines: Sequence[Line]) -> list[Line]:
    """Lines without the mark of a quotation, `> `."""
    return [(number, _QUOTE.sub("", line, count=1) if _QUOTE.match(line) else line) for number, line in lines]


def _without_leading_tags(line: str) -> str:
    tags = _TAGS.match(line)
    return line if tags is None else line[tags.end() :] or "\n"


class _TooLong(Exception):
    """As much has been parsed as is bearable."""


class _Search:
    """Looks for code in lines.

    end  the place after the last line of the code found last
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self.end = 0
        self._lines = [line for _, line in lines]
        self._numbers = [number for number, _ in lines]
        self._effort = _EFFORT * sum(map(len, self._lines)) + 100_000

    def code_from(self, start: int, known: Source | None) -> Source | None:
        """The longest code that begins at `start`: what is known, if it stands there. Raises _TooLong."""
        if known is not None:
            stop = start + len(split_lines(known.text))
            if known.text == "".join(self._lines[start:stop]):
                self.end = stop
                return known
        margin, size = _margin(self._lines[start]), 1
        code: Source | None = None
        while True:
            stop = _end_of_region(self._lines, start, start + size, margin)
            source, text = self._parsed(start, stop, margin)
            if source is not None:
                code, self.end = source, stop
            if stop < start + size or (source is None and not is_unfinished(text)):
                break
            size *= _GROWTH
        if source is None:
            error = syntax_error(text)
            last = min(start + (error.lineno or 1), stop) if error else stop
            for stop in _ends_before(self._lines, start, last, margin):
                if (source := self._parsed(start, stop, margin)[0]) is not None:
                    code, self.end = source, stop
                    break
        return code

    def _parsed(self, start: int, stop: int, margin: str) -> tuple[Source | None, str]:
        text = "".join(line.removeprefix(margin) for line in self._lines[start:stop])
        self._effort -= len(text)
        if self._effort < 0:
            raise _TooLong
        return parse(text, self._numbers[start]), text


def _ends_before(lines: Sequence[str], start: int, stop: int, margin: str) -> Iterator[int]:
    """Numbers of lines before which code may end: the last of those up to `stop`, and of those at which a statement may
    begin the nearest ones each, then ever fewer."""
    if stop - 1 > start:
        yield stop - 1
    seen, wanted = 0, 0
    for number in range(stop - 2, start, -1):
        rest = lines[number].removeprefix(margin)
        if not _is_blank(rest) and not rest[0].isspace() and not _GOES_ON.match(rest):
            if seen == wanted:
                yield number
                wanted += 1 if seen < _STEPS_BACK else seen
            seen += 1


def _end_of_region(lines: Sequence[str], start: int, most: int, margin: str) -> int:
    """The number of the first line from `start` on that does not have the margin; at most `most`."""
    most = min(most, len(lines))
    return next((n for n in range(start, most) if not _is_blank(lines[n]) and not lines[n].startswith(margin)), most)


def _under_code(lines: Sequence[str]) -> Iterator[bool]:
    """For each line, whether the nearest less indented one before it is the head of a compound statement."""
    outer: list[tuple[int, bool]] = []  # indentation of the lines around the present one, and whether it is such a head
    for line in lines:
        width = len(_margin(line))
        if not _is_blank(line):
            while outer and outer[-1][0] >= width:
                outer.pop()
        yield bool(outer) and outer[-1][1]
        if not _is_blank(line):
            outer.append((width, _HEAD.match(line.strip()) is not None))


def _is_blank(line: str) -> bool:
    """Whether Python sees nothing in a line, which is less white space than `str.strip` knows."""
    return not line.strip(" \t\f\r\n")


def _margin(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
