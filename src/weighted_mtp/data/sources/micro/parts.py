"""The semantic parts of a micro problem: what each does, how it is written, and how it is said.

A part sits in one of four slots. Its code is one place in a program, except a reducer's, which has two: before and
after the list that it reduces. In templates `{x}` is the element's name and `{c}` the part's constant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

Slot = Literal["slice", "filter", "map", "reducer"]
Value = int | list[int]

_FEW, _STEPS, _DIGITS, _FACTORS = range(2, 7), range(2, 5), range(1, 10), range(2, 10)
_NONE = range(1)  # kinds without a constant carry a 0 that no template shows


@dataclass(frozen=True, eq=False)
class Kind:
    """A family of parts that differ in their constant.

    `said` are equivalent phrases for a noun: a slice's "the first 3 items", a filter's "even", a map's "squared",
    a reducer's "the sum of". `told` are the same for an order: "take the first 3 items", "square each", "their sum".
    """

    slot: Slot
    name: str
    sites: tuple[str, ...]
    apply: Callable[..., object]
    said: tuple[str, ...]
    told: tuple[str, ...]
    constants: range = _NONE
    nouns: tuple[str, ...] = ()  # a map's phrases before what it is applied to: "the squares of"
    empty_is_zero: bool = False  # the reducer's value on an empty list is a convention that has to be told

    def __str__(self) -> str:
        return f"{self.slot}.{self.name}"


@dataclass(frozen=True)
class Part:
    """One kind with its constant, e.g. the filter "greater than 4"."""

    kind: Kind
    constant: int

    def code(self, element: str) -> tuple[str, ...]:
        """Text at each of the part's places in a program whose elements are called `element`."""
        return tuple(site.format(x=element, c=self.constant) for site in self.kind.sites)

    def __str__(self) -> str:
        return str(self.kind) if self.kind.constants is _NONE else f"{self.kind}.{self.constant}"


def _slice(name: str, code: str, apply: Callable[[list[int], int], list[int]], told: str, constants: range) -> Kind:
    said = told.removeprefix("take ").replace("skip", "all but").replace("leave out", "all but")
    return Kind("slice", name, (code,), apply, (said,), (told,), constants)


def _filter(
    name: str, code: str, apply: Callable[[int, int], bool], said: tuple[str, ...], constants: range = _NONE
) -> Kind:
    return Kind("filter", name, (code,), apply, said, said, constants)


def _map(
    name: str,
    code: str,
    apply: Callable[[int, int], int],
    said: tuple[str, ...],
    told: tuple[str, ...],
    constants: range = _NONE,
    nouns: tuple[str, ...] = (),
) -> Kind:
    return Kind("map", name, (code,), apply, said, told, constants, nouns)


def _reducer(
    name: str,
    code: str,
    apply: Callable[[list[int], int], Value],
    said: tuple[str, ...],
    told: tuple[str, ...],
    constants: range = _NONE,
    empty_is_zero: bool = False,
) -> Kind:
    head, tail = code.split("…")
    return Kind("reducer", name, (head, tail), apply, said, told, constants, empty_is_zero=empty_is_zero)


SLICES = (
    _slice("first", "[:{c}]", lambda xs, c: xs[:c], "take the first {c} items", _FEW),
    _slice("last", "[-{c}:]", lambda xs, c: xs[-c:], "take the last {c} items", _FEW),
    _slice("skip_first", "[{c}:]", lambda xs, c: xs[c:], "skip the first {c} items", _FEW),
    _slice("skip_last", "[:-{c}]", lambda xs, c: xs[:-c], "leave out the last {c} items", _FEW),
    _slice("every", "[::{c}]", lambda xs, c: xs[::c], "take one item in {c} from the first on", _STEPS),
    _slice("every_from", "[1::{c}]", lambda xs, c: xs[1::c], "take one item in {c} from the second on", _STEPS),
)

FILTERS = (
    _filter("even", "{x} % 2 == 0", lambda x, c: x % 2 == 0, ("even",)),
    _filter("odd", "{x} % 2 == 1", lambda x, c: x % 2 == 1, ("odd",)),
    _filter("positive", "{x} > 0", lambda x, c: x > 0, ("positive",)),
    _filter("negative", "{x} < 0", lambda x, c: x < 0, ("negative",)),
    _filter("above", "{x} > {c}", lambda x, c: x > c, ("greater than {c}", "above {c}"), _DIGITS),
    _filter("below", "{x} < {c}", lambda x, c: x < c, ("less than {c}", "below {c}"), _DIGITS),
    _filter("at_least", "{x} >= {c}", lambda x, c: x >= c, ("at least {c}", "not less than {c}"), _DIGITS),
    _filter("at_most", "{x} <= {c}", lambda x, c: x <= c, ("at most {c}", "not greater than {c}"), _DIGITS),
    _filter("multiple", "{x} % {c} == 0", lambda x, c: x % c == 0, ("divisible by {c}",), range(3, 10)),
    _filter("no_multiple", "{x} % {c} != 0", lambda x, c: x % c != 0, ("not divisible by {c}",), range(3, 10)),
    _filter("other", "{x} != {c}", lambda x, c: x != c, ("other than {c}", "different from {c}"), range(10)),
)

MAPS = (
    _map("square", "{x} * {x}", lambda x, c: x * x, ("squared",), ("square each",), nouns=("the squares of",)),
    _map("cube", "{x} ** 3", lambda x, c: x**3, ("cubed",), ("cube each",), nouns=("the cubes of",)),
    _map(
        "abs",
        "abs({x})",
        lambda x, c: abs(x),
        ("made absolute",),
        ("take absolute values",),
        nouns=("the absolute values of",),
    ),
    _map("negate", "-{x}", lambda x, c: -x, ("negated",), ("negate each", "flip the signs")),
    _map("times", "{x} * {c}", lambda x, c: x * c, ("times {c}", "multiplied by {c}"), ("multiply by {c}",), _FACTORS),
    _map("plus", "{x} + {c}", lambda x, c: x + c, ("plus {c}", "increased by {c}"), ("add {c} to each",), _DIGITS),
    _map(
        "minus",
        "{x} - {c}",
        lambda x, c: x - c,
        ("minus {c}", "decreased by {c}"),
        ("subtract {c} from each",),
        _DIGITS,
    ),
    _map("from", "{c} - {x}", lambda x, c: c - x, ("subtracted from {c}",), ("subtract each from {c}",), _DIGITS),
    _map(
        "modulo",
        "{x} % {c}",
        lambda x, c: x % c,
        ("modulo {c}",),
        ("take each modulo {c}",),
        _FACTORS,
        ("the remainders modulo {c} of",),
    ),
    _map(
        "divide",
        "{x} // {c}",
        lambda x, c: x // c,
        ("divided by {c} and rounded down",),
        ("divide by {c} and round down",),
        _FACTORS,
    ),
    _map(
        "distance",
        "abs({x} - {c})",
        lambda x, c: abs(x - c),
        ("replaced by its distance to {c}",),
        ("take the distance of each to {c}",),
        _DIGITS,
        ("the distances to {c} of",),
    ),
    _map("cap", "min({x}, {c})", lambda x, c: min(x, c), ("capped at {c}",), ("cap each at {c}",), _DIGITS),
    _map(
        "raise",
        "max({x}, {c})",
        lambda x, c: max(x, c),
        ("raised to at least {c}",),
        ("raise each to at least {c}",),
        _DIGITS,
    ),
)

REDUCERS = (
    _reducer("sum", "sum(…)", lambda xs, c: sum(xs), ("the sum of", "the total of"), ("their sum", "the total")),
    _reducer(
        "max",
        "max(…, default=0)",
        lambda xs, c: max(xs, default=0),
        ("the largest of", "the maximum of"),
        ("the largest", "the maximum"),
        empty_is_zero=True,
    ),
    _reducer(
        "min",
        "min(…, default=0)",
        lambda xs, c: min(xs, default=0),
        ("the smallest of", "the minimum of"),
        ("the smallest", "the minimum"),
        empty_is_zero=True,
    ),
    _reducer("count", "len(…)", lambda xs, c: len(xs), ("the number of", "the count of"), ("how many there are",)),
    _reducer(
        "count_distinct",
        "len(set(…))",
        lambda xs, c: len(set(xs)),
        ("the number of distinct values among",),
        ("how many distinct values there are",),
    ),
    _reducer(
        "sum_distinct",
        "sum(set(…))",
        lambda xs, c: sum(set(xs)),
        ("the sum of the distinct values among",),
        ("the sum of the distinct values",),
    ),
    _reducer(
        "sum_modulo",
        "sum(…) % {c}",
        lambda xs, c: sum(xs) % c,
        ("the remainder modulo {c} of the sum of",),
        ("their sum modulo {c}",),
        _FACTORS,
    ),
    _reducer(
        "sum_largest",
        "sum(sorted(…)[-{c}:])",
        lambda xs, c: sum(sorted(xs, reverse=True)[:c]),
        ("the sum of the {c} largest of",),
        ("the sum of the {c} largest",),
        range(2, 5),
    ),
    _reducer(
        "sum_smallest",
        "sum(sorted(…)[:{c}])",
        lambda xs, c: sum(islice(sorted(xs), c)),
        ("the sum of the {c} smallest of",),
        ("the sum of the {c} smallest",),
        range(2, 5),
    ),
    _reducer(
        "first",
        "next(iter(…), 0)",
        lambda xs, c: xs[0] if xs else 0,
        ("the first of",),
        ("the first one",),
        empty_is_zero=True,
    ),
    _reducer(
        "last",
        "next(reversed(…), 0)",
        lambda xs, c: xs[-1] if xs else 0,
        ("the last of",),
        ("the last one",),
        empty_is_zero=True,
    ),
    _reducer(
        "ascending",
        "sorted(…)",
        lambda xs, c: sorted(xs),
        ("a list, in ascending order, of",),
        ("them in ascending order",),
    ),
    _reducer(
        "descending",
        "sorted(…, reverse=True)",
        lambda xs, c: sorted(xs)[::-1],
        ("a list, in descending order, of",),
        ("them in descending order",),
    ),
    _reducer(
        "distinct",
        "sorted(set(…))",
        lambda xs, c: sorted(set(xs)),
        ("a sorted list of the distinct values among",),
        ("the distinct values in ascending order",),
    ),
    _reducer(
        "reverse",
        "list(reversed(…))",
        lambda xs, c: xs[::-1],
        ("a list, in reverse order, of",),
        ("them in reverse order",),
    ),
)

KINDS: dict[Slot, tuple[Kind, ...]] = {"slice": SLICES, "filter": FILTERS, "map": MAPS, "reducer": REDUCERS}
PARTS: dict[Slot, tuple[Part, ...]] = {
    slot: tuple(Part(kind, constant) for kind in kinds for constant in kind.constants) for slot, kinds in KINDS.items()
}
