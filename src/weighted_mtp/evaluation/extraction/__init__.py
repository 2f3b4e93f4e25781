"""From a model's answer to the program in it, without running anything.

Models put a program into a fence, into several, or among prose. Before it stand drafts, recited stubs and sample
inputs; after it examples, transcripts and explanations. What is taken is the last text that a careful reader would call
the answer.
"""

import re
import textwrap
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from weighted_mtp.evaluation.extraction.blocks import Block, inline_sources, read_blocks, sources
from weighted_mtp.evaluation.extraction.joining import helpers, joined
from weighted_mtp.evaluation.extraction.lines import Line, runs, separated, without_quotes, without_tags
from weighted_mtp.evaluation.extraction.reasoning import regions
from weighted_mtp.evaluation.extraction.source import Source, parse, split_lines

_LONG = 100_000  # characters of a text in which nobody looks for code among words
_CODE = re.compile(r"^\s*(?:def|class|import|from|for|while|print)\b", re.MULTILINE)

# What an editor, a file or a web page left where a line begins: characters of no width, and spaces that Python refuses.
_BEGINNING = re.compile(r"^[ \t>\ufeff\u200b\u2060\u00a0\u2002\u2003\u2009\u202f\u3000]+", re.MULTILINE)
_PLAIN = str.maketrans(dict.fromkeys("\ufeff\u200b\u2060") | dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\u3000", " "))


@dataclass(frozen=True)
class Extracted:
    """A program, and in words how it was taken: "last block that defines `f`"."""

    program: str
    how: str


def program_in_answer(answer: str, entry_point: str = "", starter: str = "") -> Extracted:
    """The program in an answer.

    A text that is Python is the program, unchanged. Else it is looked for after the model's reasoning: the last block
    that defines the entry point, or for a script the last one that reads and prints, what was typed into an interpreter
    only if no other will do; with the other blocks' texts that
    it needs; if no block will do, among the lines of prose that are Python. A block's examples are left out if they
    can fail although the function is right. Where nothing is found, the last block or all of the text will say so when
    it is run.

    entry_point  the function that tests call; "" for a script
    starter      code that an answer continues or repeats. The program begins with it, unless something is imported from
                 __future__, or only the starter is not Python
    """
    task = _Task(entry_point, starter)
    text = answer.lstrip("\ufeff\u200b\u2060")
    if parse(text) is None:
        text = _BEGINNING.sub(lambda beginning: beginning[0].translate(_PLAIN), text)
    if found := task.whole(text):
        return found
    for part, where in regions(text):
        if found := task.found_in(part):
            return Extracted(found.program, f"{found.how}{where and f', {where}'}")
    return Extracted(starter + text, "whole answer, in which no program was found")


@dataclass(frozen=True)
class _Task:
    """What is looked for."""

    entry_point: str
    starter: str

    def whole(self, text: str) -> Extracted | None:
        """A text that is Python, or that completes the starter."""
        source = parse(text)
        if source is None or (self.starter and source.is_body):
            return self._body(text, "whole answer")
        bare = source.without_words()
        return Extracted(self._program([bare]), "whole answer" if bare is source else "whole answer without its words")

    def found_in(self, text: str) -> Extracted | None:
        """The program in a part of an answer, or what is meant to be one; None if there is no code."""
        source = parse(text)
        if source and self._is_answer(source, source.defined | source.imported):
            return self.whole(text)
        blocks = read_blocks(text)
        typed = [block for block in blocks if block.is_session]
        for some in ([block for block in blocks if not block.is_session], blocks) if typed else (blocks,):
            read = {(s.line, s.text): s for block in some if block.label != "other" for s in sources(block)}
            if found := self._best(list(read.values()), "block"):
                return found
        for block in sorted(blocks, key=lambda block: ("return" in block.text, block.line), reverse=True):
            if found := self._body(block.text, "last block"):
                return found
        return self._among_prose(text, blocks) or self._left_in(blocks)

    def _among_prose(self, text: str, blocks: Sequence[Block]) -> Extracted | None:
        """The program in lines that need no fence."""
        lines = list(enumerate(split_lines(text)))
        bare = without_quotes(without_tags(separated(lines)))
        known = [block.source for block in blocks if block.source is not None]
        found = runs(lines, known) if bare == lines else runs(lines, known) + runs(bare, known)
        longest = {source.line: source for source in sorted(found, key=lambda source: len(source.text))}
        prose = sorted(longest.values(), key=lambda source: source.line)
        if best := self._best(prose, "run of lines"):
            return best
        parts = chain(_bodies(bare, prose), _bodies(lines, prose)) if self.starter else ()
        bodies = (self._body(part, "last run of lines") for part in parts)
        if body := next((body for body in bodies if body), None):
            return body
        return self._best(inline_sources(text), "code among words") if len(text) < _LONG else None

    def _left_in(self, blocks: Sequence[Block]) -> Extracted | None:
        """Among blocks that are no answer, the one that looks most like one; None if none looks like Python."""
        ranked = [(self._likeness(block), place) for place, block in enumerate(blocks)]
        likeness, place = max(ranked, default=((), 0))
        if not any(likeness):
            return None
        if (source := blocks[place].source) is None:
            return Extracted(self.starter + blocks[place].text, "last block, which is not Python")
        what = f"does not define `{self.entry_point}`" if self.entry_point else "does nothing"
        return Extracted(self._program([source]), f"last block, which {what}")

    def _likeness(self, block: Block) -> tuple[bool, ...]:
        source = block.source
        if source is None:
            is_code = block.may_be_python and _CODE.search(block.text) is not None
            return f"def {self.entry_point}(" in block.text, block.label == "python", is_code
        does = source.defines_functions if self.entry_point else source.acts
        return self.entry_point in source.defined | source.imported, block.label == "python", does

    def _best(self, found: Sequence[Source], what: str) -> Extracted | None:
        """The last that is an answer, of scripts among prose the longest, of a script and its excerpt the script; with
        what it needs of the others."""
        every = [source.without_words() for source in found]
        bound = frozenset(name for source in every for name in source.defined | source.imported)
        variables = frozenset(name for source in every if source.is_script for name in source.variables)
        by_length = what == "run of lines" and not self.entry_point

        def rank(item: tuple[int, Source]) -> tuple[bool, bool, int, int]:
            place, source = item
            is_whole = source.is_script and not source.needed_at_once & variables  # else a piece of another script
            return (
                is_whole and not self.entry_point,
                not self.entry_point and not source.replaces_input,
                len(source.text) if by_length else 0,
                place,
            )

        answers = [(place, source) for place, source in enumerate(every) if self._is_answer(source, bound)]
        if not answers:
            return None
        last, chosen = max(answers, key=rank)
        if not self.entry_point:
            wholes = [s for place, s in answers if place < last and s.is_script and chosen.is_excerpt_of(s)]
            chosen = wholes[-1] if wholes else chosen
        others = [source for source in every if source is chosen or self.entry_point not in source.imported]
        needed = helpers(chosen, others)
        bare = chosen.without_examples(self.entry_point) if self.entry_point else chosen
        does = f"defines `{self.entry_point}`" if self.entry_point else "is a script"
        how = f"{'longest' if by_length else 'last'} {what} that {does}"
        with_others = f" with {len(needed)} more that it needs" if needed else ""
        return Extracted(
            self._program([*needed, bare]), how + with_others + ("" if bare is chosen else " without its examples")
        )

    def _is_answer(self, source: Source, bound: frozenset[str]) -> bool:
        if self.entry_point:
            return self.entry_point in source.defined and not source.has_only_stub(self.entry_point)
        return source.is_script or (source.acts and ("*" in bound or source.needed_at_once <= bound))

    def _body(self, text: str, how: str) -> Extracted | None:
        """A text that completes the starter's function, indented as it stands or by as much as the starter; its first
        line as the others, if it has lost its indentation."""
        if not self.starter or not text.strip():
            return None
        readings = [text] if text.lstrip("\r\n")[0] in " \t" else []
        bare = parse(textwrap.dedent(text))
        if bare is not None and bare.is_body:
            readings.append(textwrap.indent(bare.text, self._margin))
        readings += self._with_first_line_indented(split_lines(text.lstrip("\r\n")))
        program = next((self.starter + reading for reading in readings if parse(self.starter + reading)), None)
        return Extracted(program, f"{how}, a function's body") if program is not None else None

    def _with_first_line_indented(self, lines: Sequence[str]) -> Iterator[str]:
        """A stripped body: all of it but its first line is indented."""
        first, *others = lines
        end = next((n for n, line in enumerate(others) if _is_outer(line)), len(others))
        inner = [line for line in others[:end] if line.strip() and line[0] != "#"]
        margins = [line[: len(line) - len(line.lstrip(" \t"))] for line in inner]
        if first[0] in " \t" or not margins:
            return
        for margin in dict.fromkeys([self._margin, min(margins, key=len)]):
            body = parse("".join([first, *(line.removeprefix(margin) for line in others[:end])]))
            if body is not None and body.is_body and not body.begins_with_words:
                yield "".join([textwrap.indent(body.text, self._margin), *others[end:]])

    def _program(self, parts: Iterable[Source]) -> str:
        """Texts as one program, after the starter or its stub as far as it takes part."""
        *needed, last = parts
        if not self.starter or last.text.startswith(self.starter):
            return joined([*needed, last])
        if self._start is not None:
            return joined([self._start, *needed, last])
        stub = parse(f"{self.starter.rstrip()}\n{self._margin}pass\n")
        names = frozenset(name for part in (*needed, last) for name in part.needed)
        serves = stub is not None and names & (stub.defined | stub.imported)
        return joined([stub, *needed, last] if stub is not None and serves else [*needed, last])

    @cached_property
    def _start(self) -> Source | None:
        return parse(self.starter)

    @cached_property
    def _margin(self) -> str:
        """How far the starter's function is indented."""
        last = self.starter.rstrip().splitlines()[-1:] or [""]
        return last[0][: len(last[0]) - len(last[0].lstrip())] or "    "


def _bodies(lines: Sequence[Line], prose: Sequence[Source]) -> Iterator[str]:
    """What may be a body among prose, the last first: the lines around a source that reach from one without indentation
    to the next, or only it, if there are words before it."""
    numbers = [number for number, _ in lines]
    outer = [place for place, (_, line) in enumerate(lines) if _is_outer(line)]
    seen = {-1}
    for found in reversed(prose):
        first = bisect_left(numbers, found.line)
        before = bisect_right(outer, first)
        start = outer[before - 1] if before else -1
        after = bisect_left(outer, first + len(split_lines(found.text)))
        if start not in seen:
            seen.add(start)
            yield "".join(line for _, line in lines[start : outer[after] if after < len(outer) else None])
        if found.is_body:
            yield found.text


def _is_outer(line: str) -> bool:
    """Whether a line is not indented and could be: a comment may stand anywhere."""
    return bool(line.strip()) and line[0] not in " \t#"
