"""Texts of an answer that make one program."""

from bisect import bisect_left
from collections.abc import Sequence

from weighted_mtp.evaluation.extraction.source import Source

_LONGEST_CHAIN = 30  # texts that need each other in turn


def helpers(chosen: Source, every: Sequence[Source]) -> list[Source]:
    """What of the others binds names that the chosen one needs, and names that these need in turn; in order.

    Of several texts that bind a name, it is the nearest before the chosen one, or else the nearest after it.
    """
    place = next(number for number, source in enumerate(every) if source is chosen)
    binding: dict[str, list[int]] = {}
    for number, source in enumerate(every):
        for name in source.defined | source.imported:
            binding.setdefault(name, []).append(number)
    wanted: dict[int, set[str]] = {}
    seen, waiting = set(), set(chosen.needed)
    for _ in range(_LONGEST_CHAIN):
        seen |= waiting
        found = {name: _nearest(binding.get(name) or binding.get("*", []), place) for name in waiting}
        serving = {name: number for name, number in found.items() if number is not None}
        for name, number in serving.items():
            wanted.setdefault(number, set()).add(name)
        new = set(serving.values())
        waiting = {name for number in new for name in every[number].only_what_serves(wanted[number]).needed} - seen
        waiting -= chosen.defined | chosen.imported
    return [every[number].only_what_serves(wanted[number]) for number in sorted(wanted)]


def joined(parts: Sequence[Source]) -> str:
    """Texts one after another, the last one to the letter; what is imported from __future__ comes first."""
    if not any(part.future_imports() for part in parts[1:]):
        return "\n".join(part.text for part in parts)
    names = dict.fromkeys(name for part in parts for name in part.future_imports())
    bare = [part.without_future_imports().text for part in parts]
    return "\n".join([f"from __future__ import {', '.join(names)}\n", *bare])


def _nearest(numbers: Sequence[int], place: int) -> int | None:
    """The greatest of rising numbers below `place`, or else the smallest above it."""
    before = bisect_left(numbers, place)
    if before:
        return numbers[before - 1]
    return next((number for number in numbers[:2] if number != place), None)
