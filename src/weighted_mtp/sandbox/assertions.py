"""Test code that is nothing but assertions about calls with literal arguments, as most of HumanEval's and MBPP's is.

Which calls it makes is known before it runs, so the program answers all of them in one message, and the judge runs the
test code over the answers: no fork for it, and no message per call. The judge still checks each call against the plan.
"""

import ast
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from weighted_mtp.data.schema import TestCase
from weighted_mtp.sandbox.guest.codec import to_plain

# None of them keeps anything in the judge's warm process, or runs what an argument says.
_FUNCTIONS = """
    abs all any bool complex dict divmod enumerate float frozenset int isinstance len list max min range repr
    reversed round set sorted str sum tuple zip
"""
_PLAIN = (
    *(ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Subscript, ast.Slice),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.keyword),
    *(ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)


class _Otherwise(Exception):
    """The test code does something else, too."""


def planned_calls(tests: Sequence[TestCase], entry_point: str) -> list[list[Any]] | None:
    """The argument tuples of all calls that these `code` tests make, test by test, in the codec's plain form.

    None if one of the tests is anything but literals, a function that takes the entry point, and assertions over
    builtin functions. That all calls are made, in this order, is likely and not certain: `and` may skip one.
    """
    plan = []
    for test in tests:
        calls = _calls_of(test.input, test.output, entry_point)
        if calls is None:
            return None
        plan.append(list(calls))
    return plan


@functools.lru_cache(maxsize=4096)
def _calls_of(setup: str, test: str, entry_point: str) -> tuple[Any, ...] | None:
    """Cached, for many programs meet the same test."""
    try:
        body = [*ast.parse(setup).body, *ast.parse(test).body]
        return tuple(_Reader(entry_point).calls_in(body))
    except (_Otherwise, SyntaxError, TypeError, ValueError, OverflowError, RecursionError, MemoryError):
        return None


class _Reader:
    """Reads test code in the order in which it would be evaluated."""

    def __init__(self, entry_point: str) -> None:
        self._entry_points = {entry_point}  # under all its names
        self._known = set(_FUNCTIONS.split())
        self._checks: dict[str, ast.FunctionDef] = {}

    def calls_in(self, body: list[ast.stmt]) -> Iterator[Any]:
        for statement in body:
            match statement:
                case ast.Assert(test=test, msg=message):
                    yield from self._calls_of(test)
                    list(self._calls_of(message) if message else ())  # made only if it fails
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name not in self._entry_points:
                    yield from self._calls_of(value)
                    self._known.add(name)
                case ast.FunctionDef(name=name, decorator_list=[]) if name not in self._known and _takes_one(
                    statement.args
                ):
                    self._checks[name] = statement
                case ast.Expr(value=ast.Call(func=ast.Name(id=check), args=[ast.Name(id=given)], keywords=[])) if (
                    check in self._checks and given in self._entry_points
                ):
                    yield from self._calls_of_check(self._checks[check])
                case ast.Expr(value=ast.Constant()) | ast.Pass():
                    pass
                case _:
                    raise _Otherwise

    def _calls_of_check(self, check: ast.FunctionDef) -> Iterator[Any]:
        inside = _Reader(check.args.args[0].arg)
        inside._entry_points |= self._entry_points
        inside._known |= self._known
        yield from inside.calls_in(check.body)

    def _calls_of(self, node: ast.AST) -> Iterator[Any]:
        match node:
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in self._entry_points:
                yield to_plain(tuple(map(_value, arguments)), lambda _: [])
                return
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords) if name in self._known:
                for part in (*arguments, *keywords):
                    yield from self._calls_of(part)
                return
            case ast.Name(id=name) if name in self._known:
                return
        if not isinstance(node, _PLAIN):
            raise _Otherwise
        for part in ast.iter_child_nodes(node):
            yield from self._calls_of(part)


def _value(node: ast.expr) -> Any:
    """A literal, or a sum or product of literals; no more than what its source takes. Raises as `literal_eval`."""
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left) + _value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            factors = _value(left), _value(right)
            if all(isinstance(factor, int | float) for factor in factors):
                return factors[0] * factors[1]
    return ast.literal_eval(node)


def _takes_one(arguments: ast.arguments) -> bool:
    return len(arguments.args) == 1 and not (
        arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg or arguments.defaults
    )
