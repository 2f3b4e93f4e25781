"""Natural language for a composition: as one noun phrase, or as orders to follow in turn."""

import random

from weighted_mtp.data.sources.micro.composition import Composition
from weighted_mtp.data.sources.micro.parts import Part

_VERBS = ("Return", "Compute", "Find", "Give")


def phrase(rng: random.Random, composition: Composition) -> str:
    """One of many phrasings; no two compositions share one.

    E.g. "Return the sum of the squares of the even numbers among the first 3 items." or
    "Take the first 3 items, keep the even ones, square each, and return their sum."
    """
    text = _orders(rng, composition) if rng.random() < 0.5 else _noun_phrase(rng, composition)
    if composition.reducer.kind.empty_is_zero:
        text += ", or 0 if there are none"
    return f"{text[0].upper()}{text[1:]}."


def _noun_phrase(rng: random.Random, composition: Composition) -> str:
    source = _say(rng, composition.slice) if composition.slice else ""
    phrase = f"the {_filtered(rng, composition.filters)}" if composition.filters else source or "all items"
    if composition.filters and source:
        phrase += f" {rng.choice(('among', 'in'))} {source}"
    maps = composition.maps
    if len(maps) == 1 and maps[0].kind.nouns and rng.random() < 0.5:
        phrase = f"{rng.choice(maps[0].kind.nouns).format(c=maps[0].constant)} {phrase}"
    elif maps:
        phrase += ", each " + " and then ".join(_say(rng, part) for part in maps)
    return f"{rng.choice(_VERBS)} {_say(rng, composition.reducer)} {phrase}"


def _orders(rng: random.Random, composition: Composition) -> str:
    steps = [_tell(rng, composition.slice) if composition.slice else "take all items"]
    if composition.filters:
        steps.append("keep " + rng.choice(("those that are ", "what is ")) + _all_hold(rng, composition.filters))
    steps += [_tell(rng, part) for part in composition.maps]
    return f"{', '.join(steps)}, and {rng.choice(_VERBS).lower()} {_tell(rng, composition.reducer)}"


def _filtered(rng: random.Random, filters: tuple[Part, ...]) -> str:
    """Adjectives of one word stand before the noun, longer ones after it."""
    words = [_say(rng, part) for part in filters]
    before = [word for word in words if " " not in word]
    after = [word for word in words if " " in word]
    return " ".join([*before, "numbers", *([" and ".join(after)] if after else [])])


def _all_hold(rng: random.Random, filters: tuple[Part, ...]) -> str:
    return " and ".join(_say(rng, part) for part in filters)


def _say(rng: random.Random, part: Part) -> str:
    return rng.choice(part.kind.said).format(c=part.constant)


def _tell(rng: random.Random, part: Part) -> str:
    return rng.choice(part.kind.told).format(c=part.constant)
