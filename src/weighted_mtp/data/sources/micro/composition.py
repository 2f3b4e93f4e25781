"""Compositions of parts: their value on a list, what makes one worth asking, and how one is drawn or changed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from weighted_mtp.data.sources.micro.parts import FILTERS, KINDS, PARTS, Kind, Part, Slot, Value

# Lists on which two compositions are compared for being the same function.
_probe = random.Random("micro probe")
PROBES: tuple[tuple[int, ...], ...] = tuple(
    tuple(_probe.randint(-12, 24) for _ in range(length))
    for length in (1, 2, 3, 5, 7, 9, 9, 10, 10, 11, 11, 12, 12, 12)
)
_DISTINCT_VALUES = 4  # that a composition must take on the probes


@dataclass(frozen=True)
class Composition:
    """slice → filters (all must hold) → maps, in order → reducer; all but the reducer optional."""

    slice: Part | None
    filters: tuple[Part, ...]
    maps: tuple[Part, ...]
    reducer: Part

    @property
    def parts(self) -> tuple[Part, ...]:
        """In the order in which they act."""
        return (*((self.slice,) if self.slice else ()), *self.filters, *self.maps, self.reducer)

    @property
    def difficulty(self) -> int:
        """Number of parts."""
        return len(self.parts)

    @property
    def kind_pairs(self) -> frozenset[frozenset[Kind]]:
        """All pairs of kinds that occur together."""
        kinds = [part.kind for part in self.parts]
        return frozenset(frozenset((a, b)) for i, a in enumerate(kinds) for b in kinds[i + 1 :])

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))

    def __call__(self, xs: Sequence[int]) -> Value:
        """The value on a list, by the parts' own Python semantics (not by the text of a program)."""
        values = list(xs)
        if self.slice:
            values = cast(list[int], self.slice.kind.apply(values, self.slice.constant))
        for part in self.filters:
            keep, constant = part.kind.apply, part.constant
            values = [x for x in values if keep(x, constant)]
        for part in self.maps:
            change, constant = part.kind.apply, part.constant
            values = [cast(int, change(x, constant)) for x in values]
        return cast(Value, self.reducer.kind.apply(values, self.reducer.constant))

    def with_part(self, index: int, part: Part) -> "Composition":
        """The composition with `parts[index]` replaced by a part of the same slot."""
        if index == self.difficulty - 1:
            return replace(self, reducer=part)
        if self.slice:
            if index == 0:
                return replace(self, slice=part)
            index -= 1
        if index < len(self.filters):
            return replace(self, filters=(*self.filters[:index], part, *self.filters[index + 1 :]))
        index -= len(self.filters)
        return replace(self, maps=(*self.maps[:index], part, *self.maps[index + 1 :]))

    def without_part(self, index: int) -> "Composition":
        """The composition with the optional `parts[index]` left out."""
        gone = self.parts[index]
        return replace(
            self,
            slice=None if gone is self.slice else self.slice,
            filters=tuple(part for part in self.filters if part is not gone),
            maps=tuple(part for part in self.maps if part is not gone),
        )


def is_worth_asking(composition: Composition) -> bool:
    """Whether every part matters, and the value varies.

    The number of squares is the number of items: where leaving a part out changes nothing, a mistake in it could not
    be seen by any test, so such compositions are left out.
    """
    values = [composition(probe) for probe in PROBES]
    if len({str(value) for value in values}) < _DISTINCT_VALUES:
        return False
    return all(
        any(shorter(probe) != value for probe, value in zip(PROBES, values, strict=True))
        for shorter in (composition.without_part(index) for index in range(composition.difficulty - 1))
    )


def draw(rng: random.Random, max_filters: int, max_maps: int) -> Composition:
    """A random composition: kinds are drawn evenly, then constants, so that rare kinds are not drowned."""

    def one(slot: Slot) -> Part:
        kind = rng.choice(KINDS[slot])
        return Part(kind, rng.choice(kind.constants))

    filters = _distinct_kinds([one("filter") for _ in range(_how_many(rng, max_filters))])
    return Composition(
        slice=one("slice") if rng.random() < 0.7 else None,
        filters=tuple(sorted(filters, key=lambda part: FILTERS.index(part.kind))),  # "and" has no order
        maps=_distinct_kinds([one("map") for _ in range(_how_many(rng, max_maps))]),
        reducer=one("reducer"),
    )


def change_one_part(rng: random.Random, composition: Composition) -> tuple[Composition, int]:
    """A random neighbour that differs in exactly one part, and that part's index.

    Half of the changes keep the kind and change the constant, if there is one: the finest mistake.
    """
    index = rng.randrange(composition.difficulty)
    part = composition.parts[index]
    others = [other for other in PARTS[part.kind.slot] if other is not part and other != part]
    near = [other for other in others if other.kind is part.kind]
    if near and rng.random() < 0.5:
        return composition.with_part(index, rng.choice(near)), index
    far = rng.choice([kind for kind in KINDS[part.kind.slot] if kind is not part.kind])
    return composition.with_part(index, Part(far, rng.choice(far.constants))), index


def _how_many(rng: random.Random, most: int) -> int:
    return sum(rng.random() < 0.7 for _ in range(most))


def _distinct_kinds(parts: list[Part]) -> tuple[Part, ...]:
    """Drop all but the last of two parts of one kind: "above 2 and above 4" says nothing more than one of them."""
    return tuple({part.kind: part for part in parts}.values())
