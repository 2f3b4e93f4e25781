"""The tests of a user's own problem: calls, assertions, or standard input and output.

{"args": [1, 2], "returns": 3}          the entry point called with JSON values
"assert add(1, 2) == 3"                 Python that fails where the program is wrong
{"stdin": "1 2\\n", "stdout": "3\\n"}     a script that reads and prints
{"input": …, "output": …}               a call where `input` is a list, else standard input and output
"""

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from weighted_mtp.data.schema import TestCase, Visibility
from weighted_mtp.data.sources.rows import SourceRow, unix
from weighted_mtp.data.sources.syntax import literal, parse_python
from weighted_mtp.errors import UserError

_FORMS = '{"args": […], "returns": …}, {"stdin": "…", "stdout": "…"} or an assertion as text'
_PAIRS = (("args", "returns"), ("stdin", "stdout"), ("input", "output"))


def tests_of(row: SourceRow) -> tuple[TestCase, ...]:
    """The row's tests; those in `public_tests` come first and, where they are assertions, are shown to models.

    Raises UserError naming row and test for what is none, and for tests of several kinds.
    """
    tests = tuple(
        test
        for field, visibility in (("public_tests", "public"), ("tests", "private"))
        for test in _tests(row, field, visibility)  # type: ignore[arg-type]
    )
    kinds = {"call": "calls", "code": "assertions", "stdio": "standard input and output"}
    found = [kind for kind in kinds if any(test.kind == kind for test in tests)]
    if len(found) > 1:
        raise UserError(f"{row.where}: tests are {' and '.join(kinds[k] for k in found)}: use one kind for a problem")
    return tests


def functions_of(row: SourceRow, program: str, number: int) -> set[str]:
    """Names that a correct program defines at its top. Raises UserError where it is no Python."""
    try:
        tree = parse_python(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UserError(
            f"{row.where}: program {number} of `correct` is no Python ({reason}{where}): fix it, or move it to "
            "`incorrect`"
        ) from error
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    targets = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    return names | {target.id for target in targets if isinstance(target, ast.Name)}


def one_entry_point(row: SourceRow, defined: Sequence[set[str]]) -> str:
    """The one function that all correct programs define and tests call; "" for assertions that leave a choice.

    Raises UserError where calls need a name and there is none, or where assertions call nothing that is defined.
    """
    tests = [*(row["public_tests"] or ()), *(row["tests"] or ())]
    common = set.intersection(*defined) if defined else set()
    asserted = [test for test in tests if isinstance(test, str)]
    if asserted and defined:
        called = [_called(test) & common for test in asserted]
        for number, names in enumerate(called, 1):
            if not names:
                raise UserError(
                    f"{row.where}: assertion {number} uses nothing that every program of `correct` defines "
                    f"({', '.join(sorted(common)) or 'none in common'}): fix one of them"
                )
        everywhere = set.intersection(*called)
        return everywhere.pop() if len(everywhere) == 1 else ""
    if not any(isinstance(test, dict) and _is_call(test) for test in tests):
        return ""
    if len(common) != 1:
        found = f"`correct` defines {', '.join(sorted(common))}" if common else "no function is in all of `correct`"
        found = found if defined else "there is no `correct` program that defines it"
        raise UserError(f"{row.where}: tests call a function, and {found}: give its name as `entry_point`")
    return common.pop()


def _tests(row: SourceRow, field: str, visibility: Visibility) -> Iterator[TestCase]:
    value = row[field]
    if value is None:
        return
    if not isinstance(value, list):
        raise UserError(f"{row.where}: `{field}` must be a list, each of it {_FORMS}")
    for number, test in enumerate(value, 1):
        where = f"{row.where}: test {number} of `{field}`"
        if isinstance(test, str):
            yield TestCase("code", "", _assertion(where, unix(test)), visibility)
        elif isinstance(test, dict):
            yield _pair(where, test, visibility)
        else:
            raise UserError(f"{where} is {test!r:.40}: give {_FORMS}")


def _assertion(where: str, text: str) -> str:
    try:
        tree = parse_python(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{where} is no Python ({str(error).splitlines()[0]}): {text!r:.60}") from error
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise UserError(f"{where} asserts nothing: {text!r:.60}; write `assert f(…) == …`")
    return text


def _pair(where: str, test: dict[str, Any], visibility: Visibility) -> TestCase:
    present = {name: value for name, value in test.items() if value is not None}  # Parquet has all names in all rows
    pair = next((pair for pair in _PAIRS if pair[0] in present), None)
    if pair is None:
        raise UserError(f"{where} has {', '.join(map(str, present)) or 'nothing'}: give {_FORMS}")
    given, expected = pair
    if expected not in test:
        raise UserError(f"{where} has no {expected!r} beside {given!r}: give {_FORMS}")
    if extra := sorted(map(str, present.keys() - {given, expected})):
        raise UserError(f"{where} has {extra[0]!r} beside {given!r}: give {_FORMS}")
    if _is_call(test):
        return _call(where, test[given], test[expected], visibility)
    if not isinstance(test[given], str) or not isinstance(test[expected], str):
        raise UserError(f"{where}: {given!r} and {expected!r} must be texts; of a call, `args` is a list")
    return TestCase("stdio", unix(test[given]), unix(test[expected]), visibility)


def _call(where: str, arguments: Any, returns: Any, visibility: Visibility) -> TestCase:
    if not isinstance(arguments, list):
        raise UserError(f"{where}: `args` is {arguments!r:.40}: give the list of arguments, as [{arguments!r:.30}]")
    try:
        return TestCase("call", literal(tuple(arguments)), literal(returns), visibility)
    except ValueError as error:
        raise UserError(f"{where}: {error}; write an assertion") from error


def _is_call(test: dict[str, Any]) -> bool:
    return test.get("args") is not None or isinstance(test.get("input"), list)


def _called(text: str) -> set[str]:
    try:
        nodes = ast.walk(parse_python(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return {node.id for node in nodes if isinstance(node, ast.Name)}
