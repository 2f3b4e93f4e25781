"""Programs that realise a composition, with the places of its parts.

What a program may freely choose (structure, names, comments, temporaries) is drawn apart from the composition: the
same choices give the right program and its wrong neighbour, which then differ only in the changed part's text.
"""

import random
from dataclasses import dataclass
from typing import Literal

from weighted_mtp.data.sources.micro.composition import Composition

ENTRY_POINT = "solve"

_ARGUMENTS = ("xs", "nums", "values", "items", "data", "numbers", "seq", "arr")
_ELEMENTS = ("x", "n", "v", "i", "e", "num", "item", "val")
_LISTS = ("out", "res", "ys", "kept", "result", "acc", "found", "picked")
_COMMENTS = (
    "go over the list",
    "collect what is asked for",
    "one pass",
    "build the list, then reduce it",
    "straight from the description",
    "handles the empty list too",
    "order is kept",
)

Structure = Literal["comprehension", "loop", "staged"]
_STRUCTURES: tuple[Structure, ...] = ("comprehension", "loop", "staged")


@dataclass(frozen=True)
class Choices:
    """All that does not matter."""

    structure: Structure
    argument: str
    element: str
    lists: tuple[str, ...]  # names of temporaries, distinct
    comment: str  # "" for none
    name_result: bool  # return by way of a temporary


@dataclass(frozen=True)
class MicroProgram:
    """Code, and for each part (in order of action) the spans of its places, in order of text."""

    code: str
    places: tuple[tuple[tuple[int, int], ...], ...]


class _Writer:
    """Text under construction that remembers where parts were written."""

    def __init__(self, n_parts: int) -> None:
        self.text = ""
        self.places: list[list[tuple[int, int]]] = [[] for _ in range(n_parts)]

    def write(self, *pieces: str | tuple[int, str]) -> "_Writer":
        """Append plain texts and (part index, text of a place)."""
        for piece in pieces:
            if isinstance(piece, str):
                self.text += piece
            else:
                index, text = piece
                self.places[index].append((len(self.text), len(self.text) + len(text)))
                self.text += text
        return self


def draw_choices(rng: random.Random) -> Choices:
    """Free choices for one program."""
    return Choices(
        structure=rng.choice(_STRUCTURES),
        argument=rng.choice(_ARGUMENTS),
        element=rng.choice(_ELEMENTS),
        lists=tuple(rng.sample(_LISTS, len(_LISTS))),
        comment=rng.choice(_COMMENTS) if rng.random() < 0.3 else "",
        name_result=rng.random() < 0.3,
    )


def render_program(composition: Composition, choices: Choices) -> MicroProgram:
    """The program of a composition under the given choices."""
    writer = _Writer(composition.difficulty).write(f"def {ENTRY_POINT}({choices.argument}):\n")
    if choices.comment:
        writer.write(f"    # {choices.comment}\n")
    body = {"comprehension": _comprehension, "loop": _loop, "staged": _staged}[choices.structure]
    body(writer, composition, choices)
    return MicroProgram(writer.text, tuple(map(tuple, writer.places)))


def _comprehension(writer: _Writer, composition: Composition, choices: Choices) -> None:
    """All in one expression; a second map is a comprehension over the first."""
    x = choices.element
    pieces: list[str | tuple[int, str]] = [choices.argument, *_slice_piece(composition, x)]
    filters, maps = _filter_pieces(composition, x), _map_pieces(composition, x)
    if filters or maps:
        first = maps[0] if maps else x
        pieces = ["[", first, f" for {x} in ", *pieces, *([" if ", *filters] if filters else []), "]"]
    for piece in maps[1:]:
        pieces = ["[", piece, f" for {x} in ", *pieces, "]"]
    _return(writer, composition, choices, pieces, choices.lists[0])


def _loop(writer: _Writer, composition: Composition, choices: Choices) -> None:
    """A loop that collects into a list."""
    x, out = choices.element, choices.lists[0]
    writer.write(f"    {out} = []\n    for {x} in {choices.argument}", *_slice_piece(composition, x), ":\n")
    indent = " " * 8
    filters, maps = _filter_pieces(composition, x), _map_pieces(composition, x)
    if filters:
        writer.write(f"{indent}if ", *filters, ":\n")
        indent += " " * 4
    for piece in maps[:-1]:
        writer.write(f"{indent}{x} = ", piece, "\n")
    writer.write(f"{indent}{out}.append(", maps[-1] if maps else x, ")\n")
    _return(writer, composition, choices, [out], choices.lists[1])


def _staged(writer: _Writer, composition: Composition, choices: Choices) -> None:
    """One assignment for each part."""
    x, source = choices.element, choices.argument
    names = iter(choices.lists)
    if composition.slice:
        target = next(names)
        writer.write(f"    {target} = {source}", *_slice_piece(composition, x), "\n")
        source = target
    if filters := _filter_pieces(composition, x):
        target = next(names)
        writer.write(f"    {target} = [{x} for {x} in {source} if ", *filters, "]\n")
        source = target
    for piece in _map_pieces(composition, x):
        target = next(names)
        writer.write(f"    {target} = [", piece, f" for {x} in {source}]\n")
        source = target
    _return(writer, composition, choices, [source], next(names))


def _return(
    writer: _Writer, composition: Composition, choices: Choices, values: list[str | tuple[int, str]], name: str
) -> None:
    """Reduce the list that the pieces `values` stand for, and return it."""
    index = composition.difficulty - 1
    head, tail = composition.reducer.code(choices.element)
    pieces = [(index, head), *values, (index, tail)]
    if choices.name_result:
        writer.write(f"    {name} = ", *pieces, f"\n    return {name}")
    else:
        writer.write("    return ", *pieces)


def _slice_piece(composition: Composition, element: str) -> list[str | tuple[int, str]]:
    return [(0, composition.slice.code(element)[0])] if composition.slice else []


def _filter_pieces(composition: Composition, element: str) -> list[str | tuple[int, str]]:
    start = 1 if composition.slice else 0
    pieces: list[str | tuple[int, str]] = []
    for index, part in enumerate(composition.filters, start):
        pieces += [" and ", (index, part.code(element)[0])] if pieces else [(index, part.code(element)[0])]
    return pieces


def _map_pieces(composition: Composition, element: str) -> list[tuple[int, str]]:
    start = (1 if composition.slice else 0) + len(composition.filters)
    return [(index, part.code(element)[0]) for index, part in enumerate(composition.maps, start)]
