"""The only language that crosses the wall between a program and its judge: literals and containers, as JSON.

JSON and not pickle, because the judge decodes what a hostile program wrote. `decode` can only build exact builtin
types, so an object with a dishonest `__eq__`, or a subclass of `str` or `float`, arrives as its plain base value.

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
    a name of the program           ["n", name]
    any other object                ["h", number], an opaque handle that only its owner can open
"""

import json
from collections import deque
from collections.abc import Callable
from typing import Any

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
_SHORT_INT = 1 << 63


class CodecError(ValueError):
    """A message that is not in the plain form: only a program that writes on the wire itself can cause it."""


def _plain_int(value: int) -> Any:
    return value if -_SHORT_INT < value < _SHORT_INT else ["i", hex(value)]


def to_plain(value: Any, refer: Callable[[Any], list[Any]]) -> Any:
    """Value → plain form. Subclasses lose what they add; `refer(object)` gives the form of everything else."""
    kind = type(value)
    if value is None or kind is str or kind is bool or kind is float:
        return value
    if kind is int:
        return _plain_int(value)
    tag = _TAG_OF.get(kind)
    if tag is not None:
        return [tag, *[to_plain(item, refer) for item in value]]
    if isinstance(value, dict):
        return ["d", *[to_plain(part, refer) for item in dict.items(value) for part in item]]
    if isinstance(value, int):
        return _plain_int(int(value))
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return ["c", value.real, value.imag]
    if isinstance(value, (bytes, bytearray)):
        return ["b", bytes(value).hex()]
    if isinstance(value, type) and _TYPES.get(value.__name__) is value:
        return ["y", value.__name__]
    if isinstance(value, range):
        return ["r", *[_plain_int(bound) for bound in (value.start, value.stop, value.step)]]
    for tag, base in _SEQUENCES:
        if isinstance(value, base):
            return [tag, *[to_plain(item, refer) for item in base.__iter__(value)]]  # type: ignore[attr-defined]
    return refer(value)


def from_plain(plain: Any, resolve: Callable[[str, Any], Any]) -> Any:
    """Plain form → value of exact builtin types; `resolve("n" | "h", key)` gives names and handles.

    Raises CodecError for anything that `to_plain` cannot have made.
    """
    if not isinstance(plain, list):
        if isinstance(plain, dict):
            raise CodecError("a JSON object is not a value")
        return plain
    try:
        return _from_tagged(plain[0], plain[1:], resolve)
    except (IndexError, TypeError, ValueError, KeyError) as error:
        raise CodecError(f"malformed value: {error}") from None


def _from_tagged(tag: str, items: list[Any], resolve: Callable[[str, Any], Any]) -> Any:
    if tag in _KIND_OF:
        return _KIND_OF[tag](from_plain(item, resolve) for item in items)
    if tag == "d":
        values = [from_plain(item, resolve) for item in items]
        return dict(zip(values[::2], values[1::2], strict=True))
    if tag == "i":
        return int(items[0], 16)
    if tag == "c":
        return complex(items[0], items[1])
    if tag == "b":
        return bytes.fromhex(items[0])
    if tag == "r":
        return range(*[from_plain(bound, resolve) for bound in items])
    if tag == "y":
        return _TYPES[items[0]]
    if tag in ("n", "h"):
        return resolve(tag, items[0])
    raise CodecError(f"unknown tag {tag!r}")


def pack(message: Any) -> bytes:
    """A message of plain forms → bytes."""
    return json.dumps(message, separators=(",", ":")).encode("ascii")


def unpack(payload: bytes) -> Any:
    """Bytes → message. Raises CodecError where they are not JSON."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not a message: {error}") from None
