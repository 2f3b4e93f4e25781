"""The only language that crosses the wall between a program and its judge: literals, containers and the values of a few
classes of the standard library, as JSON.

JSON and not pickle, because the judge decodes what a hostile program wrote. `from_plain` can only build values of
exactly these types, so an object with a dishonest `__eq__` arrives as a reference to it, and one of a subclass of `str`
or `float` that leaves `==` alone as its plain base value.

    value                           plain form
    None, bool, float, short int    itself (NaN and infinities as JSON's `NaN`, `Infinity`)
    str                             itself
    int beyond 64 bits              ["i", hexadecimal]
    complex                         ["c", real, imaginary]
    bytes, bytearray                ["b", hexadecimal]
    list tuple set frozenset deque  ["l" | "t" | "s" | "f" | "q", item, …]
    dict                            ["d", key, value, key, value, …]
    range                           ["r", start, stop, step]
    a builtin type                  ["y", name], of those that values here can have
    Ellipsis, NotImplemented        ["y", name]
    Fraction, Decimal, date, …      ["v", name, part, …], of the classes in `_VALUES`
    a function or class by name     ["n", name]
    an exception class by name      ["e", name, builtin base, another exception class that it derives from, or null]
    an object of a subclass         ["u", its base value, handle]
    any other object                ["h", number, own special methods, text], a handle that only its owner can open
"""

import json
import sys
from array import array
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, UserString, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID

_SEQUENCES: tuple[tuple[str, type], ...] = (
    ("l", list),
    ("t", tuple),
    ("s", set),
    ("f", frozenset),
    ("q", deque),
)
_TAG_OF = {kind: tag for tag, kind in _SEQUENCES}
_KIND_OF = dict(_SEQUENCES)
_TYPES = {
    kind.__name__: kind
    for kind in (*_TAG_OF, dict, bool, int, float, complex, str, bytes, bytearray, range, object, type(None))
}
_CONSTANTS = {"Ellipsis": ..., "NotImplemented": NotImplemented}
_SHORT_INT = 1 << 63
_DEEP = 4000  # frames


class _Class(NamedTuple):
    """How values of a class are taken apart and made again."""

    kind: type
    parts: Callable[[Any], tuple[Any, ...]]
    make: Callable[..., Any]


def _zone(value: Any) -> timedelta | None:
    return value.utcoffset()


def _with_zone(kind: Callable[..., Any]) -> Callable[..., Any]:
    """A maker of moments: of a time zone only its distance from UTC matters to `==`."""

    def make(*parts: Any) -> Any:
        *numbers, distance, fold = parts
        return kind(*numbers, tzinfo=None if distance is None else timezone(distance), fold=fold)

    return make


def _from_text(kind: Any) -> _Class:
    """A class whose text says all: a text of another type may be the program's own, with its own methods."""

    def make(text: Any) -> Any:
        if type(text) is not str:
            raise TypeError(f"{kind.__name__} of a {type(text).__name__}")
        return kind(text)

    return _Class(kind, lambda v: (kind.__str__(v),), make)


def _view(shape: tuple[int, ...], form: str, content: bytes) -> memoryview:
    view = memoryview(content)
    return view.cast(form, shape) if len(shape) > 1 else view.cast(form)  # type: ignore[call-overload]


_TEXTUAL = (PurePosixPath, PureWindowsPath, IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface,
            IPv6Network, UUID, UserString)  # fmt: skip

_VALUES = {
    made.kind.__name__: made
    for made in (
        _Class(Fraction, lambda v: (v.numerator, v.denominator), Fraction),
        _Class(Decimal, lambda v: (Decimal.__str__(v),), Decimal),
        _Class(
            datetime,
            lambda v: (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, _zone(v), v.fold),
            _with_zone(datetime),
        ),
        _Class(date, lambda v: (v.year, v.month, v.day), date),
        _Class(time, lambda v: (v.hour, v.minute, v.second, v.microsecond, _zone(v), v.fold), _with_zone(time)),
        _Class(timedelta, lambda v: (v.days, v.seconds, v.microseconds), timedelta),
        _Class(timezone, lambda v: (v.utcoffset(None),), timezone),
        _Class(array, lambda v: (v.typecode, v.tolist()), array),
        _Class(slice, lambda v: (v.start, v.stop, v.step), slice),
        _Class(Counter, lambda v: (dict(dict.items(v)),), Counter),
        _Class(OrderedDict, lambda v: (list(OrderedDict.items(v)),), OrderedDict),
        _Class(
            defaultdict,
            lambda v: (v.default_factory if v.default_factory in _TYPES.values() else None, dict(dict.items(v))),
            defaultdict,
        ),
        _Class(ChainMap, lambda v: ([dict(names) for names in v.maps],), lambda maps: ChainMap(*map(dict, maps))),
        _Class(UserDict, lambda v: (dict(v.data),), UserDict),
        _Class(UserList, lambda v: (list(v.data),), UserList),
        _Class(memoryview, lambda v: (v.shape, v.format, v.tobytes()), _view),
        *map(_from_text, _TEXTUAL),
        _Class(type({}.keys()), lambda v: (list(v),), lambda keys: dict.fromkeys(keys).keys()),
        _Class(type({}.values()), lambda v: (list(v),), lambda values: dict(enumerate(values)).values()),
        _Class(type({}.items()), lambda v: (list(v),), lambda items: dict(items).items()),
    )
}
_VALUE_OF = {made.kind: (name, made.parts) for name, made in _VALUES.items()}

# What else a subclass may be of, and still be a plain value; `datetime` before `date`, of which it is a subclass.
_BASES = (dict, int, float, str, complex, bytes, bytearray, list, tuple, set, frozenset, deque, Fraction, Decimal,
          datetime, date, time, timedelta)  # fmt: skip


class CodecError(ValueError):
    """A message that is not in the plain form: only a program that writes on the wire itself can cause it."""


def _plain_int(value: int) -> Any:
    return value if -_SHORT_INT < value < _SHORT_INT else ["i", hex(value)]


def _only_base(value: Any, base: Any) -> Any:
    return base


def to_plain(value: Any, refer: Callable[[Any], Any], derived: Callable[[Any, Any], Any] = _only_base) -> Any:
    """Value → plain form.

    refer    object → the form of what has none of its own, such as an object with an `==` of its own
    derived  (object of a subclass, form of its base value) → its form; without it, the subclass is lost
    """
    kind = type(value)
    if value is None or kind is str or kind is bool or kind is float:
        return value
    if kind is int:
        return _plain_int(value)
    tag = _TAG_OF.get(kind)
    if tag is not None:
        return [tag, *[to_plain(item, refer, derived) for item in value]]
    if kind is dict:
        return ["d", *[to_plain(part, refer, derived) for item in value.items() for part in item]]
    if kind in _VALUE_OF:
        name, parts = _VALUE_OF[kind]
        return ["v", name, *[to_plain(part, refer, derived) for part in parts(value)]]
    if kind is complex:
        return ["c", value.real, value.imag]
    if kind is bytes or kind is bytearray:
        return ["b", value.hex()]
    if kind is range:
        return ["r", *[_plain_int(bound) for bound in (value.start, value.stop, value.step)]]
    if kind is type and isinstance(value, type) and _TYPES.get(value.__name__) is value:
        return ["y", value.__name__]
    if value is ... or value is NotImplemented:
        return ["y", str(value)]
    base = next((base for base in _BASES if base in kind.__mro__), None)
    if base is None or kind.__eq__ is not base.__eq__ or kind.__ne__ is not base.__ne__:
        return refer(value)
    return derived(value, to_plain(_as_base(value, base), refer, derived))


def _as_base(value: Any, base: type) -> Any:
    """A value of a subclass as one of exactly its base, with nothing of the subclass asked that can be avoided."""
    if base in _TAG_OF:
        return base(base.__iter__(value))  # type: ignore[attr-defined]
    if base is dict:
        return dict(dict.items(value))
    if base is str:
        return str.__str__(value)
    if base in (int, float):
        return base.__pos__(value)
    if base in (complex, bytes, bytearray):
        return base(value)
    name, parts = _VALUE_OF[base]
    return _VALUES[name].make(*parts(value))


def from_plain(plain: Any, resolve: Callable[[str, list[Any]], Any]) -> Any:
    """Plain form → value of exact types; `resolve("n" | "e" | "h", [key, …])` gives what is referred to,
    and `resolve("u", [base value, handle])` what a subclass' object is here.

    Raises CodecError for anything that `to_plain` cannot have made.
    """
    if not isinstance(plain, list):
        if isinstance(plain, dict):
            raise CodecError("a JSON object is not a value")
        return plain
    try:
        return _from_tagged(plain[0], plain[1:], resolve)
    except (IndexError, TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise CodecError(f"malformed value: {error}") from None


def _from_tagged(tag: str, items: list[Any], resolve: Callable[[str, list[Any]], Any]) -> Any:
    if tag in _KIND_OF:
        return _KIND_OF[tag](from_plain(item, resolve) for item in items)
    if tag == "d":
        values = [from_plain(item, resolve) for item in items]
        return dict(zip(values[::2], values[1::2], strict=True))
    if tag == "v":
        return _VALUES[items[0]].make(*[from_plain(part, resolve) for part in items[1:]])
    if tag == "i":
        return int(items[0], 16)
    if tag == "c":
        return complex(items[0], items[1])
    if tag == "b":
        return bytes.fromhex(items[0])
    if tag == "r":
        return range(*[from_plain(bound, resolve) for bound in items])
    if tag == "y":
        return _CONSTANTS[items[0]] if items[0] in _CONSTANTS else _TYPES[items[0]]
    if tag == "u":
        return resolve(tag, [from_plain(items[0], resolve), items[1]])
    if tag in ("n", "e", "h"):
        return resolve(tag, items)
    raise CodecError(f"unknown tag {tag!r}")


@contextmanager
def deep_recursion() -> Iterator[None]:
    """As much of the stack as values take that are nested as deeply as Python could compare them."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _DEEP))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


# Made once: `json.dumps` makes an encoder for each message, and `json.loads` guesses an encoding.
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_from_json = json.JSONDecoder().decode


def pack(message: Any) -> bytes:
    """A message of plain forms → bytes."""
    return _to_json(message).encode("ascii")


def unpack(payload: bytes) -> Any:
    """Bytes → message. Raises CodecError if they are not JSON in ASCII."""
    try:
        return _from_json(payload.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not a message: {error}") from None
