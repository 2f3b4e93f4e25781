"""Where in a text the answer stands: after what a model thought first, and before what it took for another turn."""

import re
from collections.abc import Iterator

from weighted_mtp.evaluation.extraction.blocks import read_blocks, sources
from weighted_mtp.evaluation.extraction.lines import runs
from weighted_mtp.evaluation.extraction.source import split_lines

_NAME = r"(?:\w+[:|])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|analysis|scratch_?pad|rationale|cot)"
_OPENING = re.compile(
    rf"<{_NAME}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis<\|message\|>", re.IGNORECASE
)
_CLOSING = re.compile(
    rf"</{_NAME}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>|\bassistantfinal",
    re.IGNORECASE,
)
# A tokenizer's marks, left in a text; Alpaca's heading of the next task.
_TURN = re.compile(
    r"<\|[\w ▁-]{1,40}\|>|<｜[\w ▁-]{1,40}｜>|</?s>|<(?:eos|bos|pad|(?:start|end)_of_turn)>|^### Instruction:.*$",
    re.MULTILINE,
)


def regions(text: str) -> Iterator[tuple[str, str]]:
    """Parts of a text in which the answer may stand, the likeliest first, each with where that is: "" for all of it.

    A mark in a string of a program is none.
    """
    if not any(pattern.search(text) for pattern in (_OPENING, _CLOSING, _TURN)):
        yield text, ""
        return
    visible = _without_strings(text)
    closing = list(_CLOSING.finditer(visible))
    start = closing[-1].end() if closing else 0
    opening = _OPENING.search(visible, start)
    where = "after the reasoning" if closing else ""
    if opening is not None:
        before = "before reasoning that does not end"
        yield _first_turn(text, visible, start, opening.start()), before
        yield _first_turn(text, visible, opening.end(), len(text)), "in reasoning that does not end"
    else:
        yield _first_turn(text, visible, start, len(text)), where
    if closing:
        yield _outside(text, visible), "outside of the reasoning"
    yield text, where and "in the reasoning"


def _without_strings(text: str) -> str:
    """The text with blanks for the lines of its programs' strings."""
    lines = list(enumerate(split_lines(text)))
    blocks = [block for block in read_blocks(text) if block.label != "other"]
    fenced = [source for block in blocks for source in sources(block)]
    programs = [*fenced, *runs(lines, fenced)]
    inside = {source.line + number for source in programs for number in source.lines_of_strings()}
    return "".join(" " * len(line) if number in inside else line for number, line in lines)


def _first_turn(text: str, visible: str, start: int, end: int) -> str:
    """The first part of text[start:end] between marks that is not blank."""
    marks = [*_TURN.finditer(visible, start, end)]
    starts = [start, *(mark.end() for mark in marks)]
    ends = [*(mark.start() for mark in marks), end]
    parts = (text[first:last] for first, last in zip(starts, ends, strict=True))
    return next((part for part in parts if part.strip()), "")


def _outside(text: str, visible: str) -> str:
    """What is before, between and after passages of reasoning."""
    kept, start = [], 0
    while (opening := _OPENING.search(visible, start)) and (closing := _CLOSING.search(visible, opening.end())):
        kept.append(text[start : opening.start()])
        start = closing.end()
    return "\n".join([*kept, text[start:]])
