"""The program as the judge sees it: values, and handles of objects that stay where they are.

What a test does only with handles, the program does: they are its own objects. Where a test compares one with a value
of its own, nobody can be trusted to: the program's `==` may say what it likes, and would see what is expected. Such a
comparison is Incomparable, unless Python itself decides it, as for classes that leave `==` alone.
"""

import builtins
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .codec import CodecError, deep_recursion, from_plain, to_plain
from .objects import ARITHMETIC, NUMBERS, UNARY
from .server import Wire, reply

_SHOWN = 100  # characters of a value that one is compared with

# Raised as they are, these would steer the test's own control flow instead of failing it.
_CONTROL_FLOW = ("StopIteration", "StopAsyncIteration", "GeneratorExit", "SystemExit", "KeyboardInterrupt")

# What a test may read of an object that has two underscores: all else is Python's own, as what copying asks.
_READABLE = ("__name__", "__qualname__", "__doc__", "__module__", "__dict__", "__annotations__")


class ProgramGone(BaseException):
    """The harness says that the program no longer runs: there is nobody to call."""


class Incomparable(BaseException):
    """Only the program could say how a comparison ends."""


class Handle:
    """A function, class or object of the program, used by messages only; `own` are its special methods."""

    __slots__ = ("_own", "_plain", "_program", "_text")

    def __init__(self, program: "RemoteProgram", plain: list[Any], own: frozenset[str], text: str) -> None:
        for name, value in (("_program", program), ("_plain", plain), ("_own", own), ("_text", text)):
            object.__setattr__(self, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._program.ask("type", self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._program.ask("call", self, list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _READABLE:
            raise AttributeError(name)
        return self._program.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._program.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._program.ask("put", self, key, value)

    def __len__(self) -> int:
        return self._program.ask("len", self)

    def __bool__(self) -> bool:
        return bool(self._program.ask("bool", self))

    def __iter__(self) -> Any:
        return self._program.ask("iter", self)

    def __next__(self) -> Any:
        try:
            return self._program.ask("next", self)
        except RuntimeError as error:
            if getattr(error, "program_error", None) == "StopIteration":
                raise StopIteration from None
            raise

    def __contains__(self, item: Any) -> bool:
        if "__contains__" in self._own:
            raise self._program.cannot_compare(self, item, "in")
        return any(item is member or item == member for member in self)

    def __eq__(self, other: Any) -> Any:
        return _equal(self, other, "eq", same=True)

    def __ne__(self, other: Any) -> Any:
        return _equal(self, other, "ne", same=False)

    def __hash__(self) -> int:
        if self._own & {"__eq__", "__hash__"}:
            return self._program.ask("hash", self)
        return object.__hash__(self)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, (Handle, Derived)) and self._program.ask("isinstance", value, self)

    def __subclasscheck__(self, kind: Any) -> bool:
        return isinstance(kind, Handle) and self._program.ask("issubclass", kind, self)


def _equal(one: Handle, other: Any, operation: str, same: bool) -> Any:
    """`==` and `!=`, where `same` is what one object gives."""
    if other is Handle:  # what `type` gives for any object of the program
        raise one._program.cannot_compare(one, other, operation)
    if not isinstance(other, Handle):
        return _with_value(one, other, operation, "__eq__" in one._own or f"__{operation}__" in one._own)
    if not (one._own | other._own) & {"__eq__", "__ne__"}:
        return same if one is other else not same
    return one._program.ask(operation, one, other)


def _with_value(one: Handle, other: Any, operation: str, is_own: bool) -> Any:
    if is_own:
        raise one._program.cannot_compare(one, other, operation)
    return NotImplemented


def _binary(name: str) -> Callable[[Handle, Any], Any]:
    def method(self: Handle, other: Any) -> Any:
        if isinstance(other, Handle):
            return self._program.ask(name, self, other)
        return _with_value(self, other, name, f"__{name}__" in self._own)

    return method


def _reflected(name: str) -> Callable[[Handle, Any], Any]:
    return lambda self, other: _with_value(self, other, f"r{name}", f"__r{name}__" in self._own)


def _unary(name: str) -> Callable[..., Any]:
    return lambda self, *arguments: self._program.ask(name, self, *arguments)


def _number(name: str) -> Callable[[Handle], Any]:
    """Never the program's: what test code computes with such a number could be given another at each step."""

    def method(self: Handle) -> Any:
        if self._own & {f"__{name}__", "__index__"}:
            why = f"{self._text}: only the program's own __{name}__ could make a number of it"
            raise self._program.leave_open(why)
        raise TypeError(f"an object of the program cannot be made {name}")

    return method


for _name in NUMBERS:
    setattr(Handle, f"__{_name}__", _number(_name))
for _name in (*ARITHMETIC, "lt", "le", "gt", "ge"):
    setattr(Handle, f"__{_name}__", _binary(_name))
for _name in ARITHMETIC:
    setattr(Handle, f"__r{_name}__", _reflected(_name))
for _name in UNARY:
    if _name != "hash":
        setattr(Handle, f"__{_name}__", _unary(_name))


class ProgramError:
    """What the classes have in common that stand for the program's own classes of exceptions."""

    program_handle: Any = None
    program_text = ""

    def __str__(self) -> str:
        return self.program_text if self.program_handle is not None else super().__str__()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.program_handle is None:
            raise AttributeError(name)
        return getattr(self.program_handle, name)


class Derived:
    """What the values have in common that stand for objects of the program's own subclasses of builtin types."""

    program_handle: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "program_handle":
            raise AttributeError(name)
        return getattr(self.program_handle, name)

    def __str__(self) -> str:
        return str(self.program_handle) if "__str__" in self.program_handle._own else super().__str__()

    def __repr__(self) -> str:
        return repr(self.program_handle) if "__repr__" in self.program_handle._own else super().__repr__()


_COPIED = (int, float, complex, str, bytes, list, tuple, set, frozenset, dict, deque, Fraction, Decimal)
_REDUCED = (date, datetime, time, timedelta)  # which take no value of their own kind
_DERIVED: dict[type, type] = {kind: type(kind.__name__, (Derived, kind), {}) for kind in (*_COPIED, *_REDUCED)}


class RemoteProgram:
    """The other side of the wall.

    undecided  what a test did that only the program could decide, if it did; whatever the test made of that
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._handles: dict[tuple[str, Any], Handle] = {}
        self._classes: dict[str, type] = {}
        self.undecided = ""

    def resolve(self, tag: str, items: list[Any]) -> Any:
        """The one Handle of a name or number, so that identity holds, or the class that stands for one of exceptions.

        Raises TypeError, ValueError or IndexError for what no program's side has said.
        """
        if tag == "e":
            return self._exception_class(*items)
        if tag == "u":
            return self._derived(items[0], from_plain(items[1], self.resolve))
        key = (tag, items[0])
        if key not in self._handles:
            own, text = items[1:] or ("", "")
            self._handles[key] = Handle(self, [tag, items[0]], frozenset(own.split()), str(text))
        return self._handles[key]

    def handle(self, name: str) -> Handle:
        """That of a function or class."""
        return self.resolve("n", [name])

    def _derived(self, base: Any, handle: Handle) -> Any:
        """A value that is equal to its base, and knows the object it stands for."""
        kind = type(base)
        value = _DERIVED[kind](*(base.__reduce__()[1] if kind in _REDUCED else (base,)))
        value.program_handle = handle
        return value

    def _exception_class(self, name: str, base: str, parent: list[Any] | None) -> type:
        if name not in self._classes:
            above = from_plain(parent, self.resolve) if parent else builtin_exception(base)
            bases = (above,) if issubclass(above, ProgramError) else (ProgramError, above)
            self._classes[name] = type(name, bases, {"program_plain": ["n", name]})
        return self._classes[name]

    def unknown(self, name: str) -> KeyError:
        """What to raise for a name that the program does not define."""
        return KeyError(name)

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Have the program do something → its value. Raises what the program raised, as the nearest builtin class."""
        reply(self._wire, [operation, *[self._sent(argument) for argument in arguments]])
        answer = self._wire.receive()
        if answer == "gone":
            raise ProgramGone
        return self.value_of(answer)

    def check_decided(self) -> None:
        """Raises Incomparable if the test has gone on after one."""
        if self.undecided:
            raise Incomparable(self.undecided)

    def _sent(self, value: Any) -> Any:
        return to_plain(value, self._refer, _sent_derived)

    def _refer(self, value: Any) -> list[Any]:
        if type(value) is Handle:
            return value._plain
        if isinstance(value, type) and issubclass(value, ProgramError):
            return value.program_plain  # type: ignore[attr-defined]
        if callable(value) and not isinstance(value, type):
            what = f"a test cannot hand a {type(value).__name__} to the program"
            raise self.leave_open(f"{what}: only values and the program's own objects cross the sandbox")
        raise TypeError(f"a test cannot hand a {type(value).__name__} to the program: only literals, containers and "
                        "the program's own objects cross the sandbox")  # fmt: skip

    def cannot_compare(self, one: Handle, other: Any, operation: str) -> Incomparable:
        """What to raise instead of comparing."""
        method = operation if operation == "in" else f"__{operation}__"
        return self.leave_open(_undecided(one._text, other, method))

    def leave_open(self, why: str) -> Incomparable:
        """What to raise where nobody can be trusted with the decision; kept, since a test may go on."""
        self.undecided = self.undecided or why
        return Incomparable(self.undecided)

    def value_of(self, answer: Any) -> Any:
        """The value in a program's answer. Raises what the program raised, or CodecError for nonsense."""
        if not isinstance(answer, dict) or not answer.keys() & {"value", "error"}:
            raise CodecError("the program answered out of turn")
        if "error" in answer:
            raise self._raised(answer["error"], answer.get("raised"))
        with deep_recursion():
            return from_plain(answer["value"], self.resolve)

    def _raised(self, error: Any, raised: Any) -> Exception:
        """[class name, what to show], and what else there is → an exception to raise, marked as the program's."""
        if not (isinstance(error, list) and len(error) == 2 and all(isinstance(part, str) for part in error)):
            return CodecError("the program answered out of turn")
        name, shown = error
        found = self._as_was(name, raised) if isinstance(raised, dict) else None
        found = found or _made(builtin_exception(name), shown)
        found.__dict__.update(program_error=name, program_shown=shown)
        return found

    def _as_was(self, name: str, raised: dict[str, Any]) -> Exception | None:
        """An exception of the same class and with the same text; None if there is none."""
        try:
            text = str(raised["text"])
            if raised["class"] is None:
                kind = builtin_exception(name)
                found = kind(*from_plain(raised["args"], self.resolve))
                return found if str(found) == text and kind.__name__ == name else _made(kind, text)
            kind = from_plain(raised["class"], self.resolve)
            found = kind.__new__(kind, *from_plain(raised["args"], self.resolve))
            found.__dict__.update(program_text=text, program_handle=from_plain(raised["object"], self.resolve))
        except Exception:  # a hostile program's words, or a class that takes other arguments than it has kept
            return None
        return found


def _sent_derived(value: Any, base: Any) -> Any:
    return value.program_handle._plain if isinstance(value, Derived) else base


class EndedProgram(RemoteProgram):
    """A program that cannot be called any more: its answers are there."""

    def __init__(self) -> None:
        super().__init__(Wire(-1, -1))

    def resolve(self, tag: str, items: list[Any]) -> Any:
        """What stands for an object of it."""
        if tag == "u":
            return items[0]
        own, text = items[1:] if tag == "h" else ("", str(items[0]))
        return Silent(frozenset(own.split()), str(text))


class Silent:
    """An object of a program that has ended: equal to nothing, unless its class has an `==` of its own."""

    def __init__(self, own: frozenset[str], text: str) -> None:
        self._own = own
        self._text = text

    def __eq__(self, other: object) -> bool:
        if self._own & {"__eq__", "__ne__"}:
            raise Incomparable(_undecided(self._text, other, "__eq__"))
        return self is other

    def __hash__(self) -> int:
        if self._own & {"__eq__", "__hash__"}:
            raise Incomparable(_undecided(self._text, "others", "__hash__"))
        return object.__hash__(self)

    def __repr__(self) -> str:
        return self._text


def builtin_exception(name: str) -> type[Exception]:
    """A builtin class of exceptions, or RuntimeError in place of what would steer the test."""
    kind = getattr(builtins, name, None)
    if name in _CONTROL_FLOW or not (isinstance(kind, type) and issubclass(kind, Exception)):
        return RuntimeError
    return kind


def _made(kind: type[Exception], text: str) -> Exception:
    try:
        return kind(text)
    except TypeError:  # UnicodeDecodeError and its like need more than a text
        return ValueError(text)


def _undecided(text: str, other: Any, method: str) -> str:
    against = type(other).__name__ + " object" if isinstance(other, Handle) else repr(other)[:_SHOWN]
    return f"{text} and {against}: only the program's own {method} could compare them"
