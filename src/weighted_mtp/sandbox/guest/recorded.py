"""Programs that a test cannot question: one that has answered beforehand, and one that is yet to be asked."""

import ast
import functools
from typing import Any

from .codec import from_plain, to_plain, unpack
from .foreign import RemoteProgram
from .server import Wire

_MOST_CALLS = 1000


class Unplanned(BaseException):
    """The test code does something else than was planned for it: it is to be run before the program itself."""


class Unanswered(BaseException):
    """The program came to its end before it answered this call."""


class _SilentProgram(RemoteProgram):
    """A program of which only the entry point can be called, by position."""

    def __init__(self, entry_point: str) -> None:
        super().__init__(Wire(-1, -1))
        self._callee = ["n", entry_point]

    def unknown(self, name: str) -> Any:
        """Perhaps the program defines it."""
        raise Unplanned

    def _arguments(self, operation: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Those of a call of the entry point. Raises Unplanned for any other question."""
        if operation != "call" or arguments[2] or arguments[0]._plain != self._callee:
            raise Unplanned
        return tuple(arguments[1])


class RecordedProgram(_SilentProgram):
    """A program that has answered all calls of a test beforehand, up to its end.

    calls    the argument tuples that were planned, in the codec's plain form
    answers  what the program said to them, packed; there may be fewer
    """

    def __init__(self, entry_point: str, calls: list[Any], answers: list[str]) -> None:
        super().__init__(entry_point)
        self._calls = calls
        self._answers = answers
        self._made = 0

    def ask(self, operation: str, *arguments: Any) -> Any:
        """The recorded value. Raises what the program raised, Unplanned for any other question, Unanswered."""
        given = self._arguments(operation, arguments)
        if self._made == len(self._calls):
            raise Unplanned
        if repr(given) != repr(from_plain(self._calls[self._made], self.resolve)):
            raise Unplanned
        if self._made == len(self._answers):
            raise Unanswered
        self._made += 1
        return self.value_of(unpack(self._answers[self._made - 1].encode("ascii")))

    def check_all_made(self) -> None:
        """Raises Unplanned if a planned call was not made."""
        if self._made < len(self._calls):
            raise Unplanned


class RehearsedProgram(_SilentProgram):
    """A program that is not there yet: it keeps what a test asks, and answers with what is equal to anything.

    calls  the argument tuples so far, in the codec's plain form
    """

    def __init__(self, entry_point: str) -> None:
        super().__init__(entry_point)
        self.calls: list[Any] = []

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Raises Unplanned for anything but a call with plain values, and for too many."""
        given = self._arguments(operation, arguments)
        if len(self.calls) == _MOST_CALLS:
            raise Unplanned
        self.calls.append(to_plain(given, _refuse))
        return _Anything()


def _refuse(value: Any) -> Any:
    raise Unplanned


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True


class _Lenient(ast.NodeTransformer):
    """Test code whose assertions are evaluated, and hold whatever comes of it."""

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        ignored = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [ast.Pass()])
        return ast.copy_location(ast.Try([ast.Expr(node.test)], [ignored], [], []), node)


@functools.lru_cache(maxsize=1024)
def lenient(test: str) -> Any:
    """The code of a test, for a rehearsal."""
    return compile(ast.fix_missing_locations(_Lenient().visit(ast.parse(test))), "<test>", "exec", dont_inherit=True)
