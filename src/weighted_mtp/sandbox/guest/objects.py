"""The program's own objects where they lie: what the judge may do with them, and what it learns of each."""

import builtins
import math
import operator
import sys
import types
from collections.abc import Callable
from typing import Any

from .codec import from_plain, to_plain
from .server import builtin_base

_SHOWN = 80  # characters of an object's text

# Of each name the special method __name__; those that take two also have __rname__, but for comparisons.
COMPARISONS = ("lt", "le", "eq", "ne", "gt", "ge")
_ARITHMETIC = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift divmod"
_OF_ONE = "neg pos abs invert round floor ceil trunc hash str repr format bytes reversed"
ARITHMETIC, UNARY = tuple(_ARITHMETIC.split()), tuple(_OF_ONE.split())
NUMBERS = ("int", "float", "complex", "index")  # what a value may be made into
_NAMED_OTHERWISE: dict[str, Callable[..., Any]] = {
    "and": operator.and_,
    "or": operator.or_,
    "floor": math.floor,
    "ceil": math.ceil,
    "trunc": math.trunc,
}

OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, args, kwargs: function(*args, **kwargs),
    "get": getattr,
    "set": setattr,
    "item": lambda value, key: value[key],
    "put": lambda value, key, item: value.__setitem__(key, item),
    "len": len,
    "bool": bool,
    "iter": iter,
    "next": next,
    "isinstance": isinstance,
    "issubclass": issubclass,
    "type": type,
    **{
        name: _NAMED_OTHERWISE.get(name) or getattr(builtins, name, None) or getattr(operator, name)
        for name in (*COMPARISONS, *ARITHMETIC, *UNARY)
    },
}

_SPECIAL = (
    "__contains__",
    *(f"__{name}__" for name in (*COMPARISONS, *ARITHMETIC, *UNARY, *NUMBERS)),
    *(f"__r{name}__" for name in ARITHMETIC),
)


class Objects:
    """The program's own objects that crossed the wall as handles."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._kept: list[Any] = []
        self._number: dict[int, int] = {}

    def refer(self, value: Any) -> Any:
        """The form of an object that is no plain value; the same object keeps its number."""
        kind = type(value)
        if kind.__module__ == "numpy" and (scalar := _scalar(value)) is not value:
            return self.encode(scalar)
        if (kind is types.FunctionType or issubclass(kind, type)) and self._has_name(value):
            return self._exception_class(value) or ["n", value.__name__]
        return self.reference(value)

    def reference(self, value: Any) -> list[Any]:
        """The handle of any object."""
        kind = type(value)
        if id(value) not in self._number:
            self._number[id(value)] = len(self._kept)
            self._kept.append(value)  # keeps the object alive, so its id stays its own
        own = [name for name in _SPECIAL if getattr(kind, name, None) is not getattr(object, name, None)]
        return ["h", self._number[id(value)], " ".join(own), _text(value, "__eq__" in own)]

    def _has_name(self, value: Any) -> bool:
        return self._namespace.get(value.__name__) is value

    def _exception_class(self, kind: Any) -> list[Any] | None:
        """The form of a class of exceptions that has a name in the program; None for any other value."""
        if not (isinstance(kind, type) and issubclass(kind, BaseException) and self._has_name(kind)):
            return None
        return ["e", kind.__name__, builtin_base(kind).__name__, self._nearest_class(kind.__mro__[1:])]

    def _nearest_class(self, kinds: tuple[type, ...]) -> list[Any] | None:
        return next((found for kind in kinds if (found := self._exception_class(kind))), None)

    def raised(self, error: BaseException) -> dict[str, Any]:
        """What there is to say of an exception but how it is shown: its class, arguments, text, and itself."""
        return {
            "class": self._nearest_class(type(error).__mro__),
            "args": self.encode(error.args),
            "text": str(error),
            "object": self.refer(error),
        }

    def resolve(self, tag: str, items: list[Any]) -> Any:
        """A handle or a name → the object."""
        return self._kept[items[0]] if tag == "h" else self._namespace[items[0]]

    def decode(self, plain: Any) -> Any:
        return from_plain(plain, self.resolve)

    def encode(self, value: Any) -> Any:
        return to_plain(value, self.refer, lambda own, base: ["u", base, self.reference(own)])

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Do what the judge requests, whose arguments are plain → the value."""
        if operation == "name":
            return self._namespace[arguments[0]]
        return OPERATIONS[operation](*map(self.decode, arguments))


def _scalar(value: Any) -> Any:
    """numpy's scalars as Python's, which they are equal to; any other object is itself."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return value
    scalar = value.item()
    return value if isinstance(scalar, numpy.generic) else scalar


def _text(value: Any, is_telling: bool) -> str:
    """How an object is shown where it cannot be compared: as itself, if that says more than its class."""
    name = type(value).__name__
    try:
        text = repr(value) if is_telling and type(value).__repr__ is not object.__repr__ else ""
    except BaseException:  # a program's own __repr__ may do anything
        text = ""
    return f"{name} object {text[:_SHOWN]}".rstrip()
