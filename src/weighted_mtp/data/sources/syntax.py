"""Python text: programs that a dataset holds, parsed; values, written."""

import ast
import cmath
import math
import warnings
from typing import Any

_LONG_INT = 1 << 64


def parse_python(code: str) -> ast.Module:
    """Syntax tree of a program that somebody else wrote: its style ("\\w" in a plain string) is no concern of the user.

    Raises SyntaxError.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return ast.parse(code)


def literal(value: Any) -> str:
    """The text that `ast.literal_eval` reads as this value; one text for a value, whatever the order of its sets.

    Raises ValueError for what has none: NaN, infinite complex numbers, and objects that are not None, numbers,
    strings, bytes, lists, tuples, dicts or sets.
    """
    kind = type(value)
    if kind is int and abs(value) >= _LONG_INT:
        return hex(value)  # quick for a million digits
    if kind is float and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    if kind not in _WRITERS or (kind is float and math.isnan(value)) or (kind is complex and not cmath.isfinite(value)):
        raise ValueError(f"{value!r:.80} cannot be written as a Python literal")
    return _WRITERS[kind](value)


def _tuple(items: tuple[Any, ...]) -> str:
    return f"({literal(items[0])},)" if len(items) == 1 else f"({', '.join(map(literal, items))})"


_WRITERS = {
    **dict.fromkeys((type(None), bool, int, float, complex, str, bytes), repr),
    list: lambda items: f"[{', '.join(map(literal, items))}]",
    tuple: _tuple,
    dict: lambda items: f"{{{', '.join(f'{literal(key)}: {literal(value)}' for key, value in items.items())}}}",
    set: lambda items: f"{{{', '.join(sorted(map(literal, items)))}}}" if items else "set()",
}
