"""Programs that are nearly right: HumanEval's canonical solutions with one small edit each."""

import ast
import random
import textwrap
from collections.abc import Callable, Iterator

from weighted_mtp.data.schema import Problem, Solution
from weighted_mtp.data.sources.syntax import parse_python

Edit = Callable[[], None]
"""Changes the tree that it was made for."""

_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Div)


def completions(
    problems: list[Problem], solutions: list[Solution], number: int, seed: int = 0
) -> list[tuple[Problem, str]]:
    """`number` different completions, each the canonical body with one edit, spread evenly over the problems."""
    generator = random.Random(seed)
    queues = []
    for problem, solution in zip(problems, solutions, strict=True):
        found = list(_mutants(problem, solution))
        generator.shuffle(found)
        queues.append([(problem, text) for text in dict.fromkeys(found)])
    rounds = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return rounds[:number]


def _mutants(problem: Problem, solution: Solution) -> Iterator[str]:
    original = _body(_function(solution.code, problem.entry_point))
    for place in range(len(_edits(_function(solution.code, problem.entry_point)))):
        function = _function(solution.code, problem.entry_point)
        _edits(function)[place]()
        text = _body(function)
        if text != original:
            yield text


def _function(code: str, name: str) -> ast.FunctionDef:
    return next(node for node in parse_python(code).body if isinstance(node, ast.FunctionDef) and node.name == name)


def _body(function: ast.FunctionDef) -> str:
    """What continues the prompt: the body without its docstring."""
    statements = [node for node in function.body if not _is_text(node)]
    return textwrap.indent("\n".join(map(ast.unparse, statements)), "    ") + "\n"


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _edits(function: ast.FunctionDef) -> list[Edit]:
    """One function for each possible edit, in a fixed order."""
    statements = [statement for statement in function.body if not _is_text(statement)]
    nodes = [node for statement in statements for node in ast.walk(statement)]
    return [edit for node in nodes for edit in _edits_of(node)]


def _edits_of(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], _COMPARISONS):
        for kind in _COMPARISONS:
            yield lambda kind=kind: node.ops.__setitem__(0, kind())
    elif isinstance(node, ast.BinOp) and isinstance(node.op, _OPERATORS):
        for kind in _OPERATORS:
            yield lambda kind=kind: setattr(node, "op", kind())
    elif isinstance(node, ast.BoolOp):
        yield lambda: setattr(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield lambda: setattr(node, "value", node.value + 1)
        yield lambda: setattr(node, "value", node.value - 1)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield lambda: setattr(node, "value", not node.value)
    elif isinstance(node, ast.Constant) and type(node.value) is str:
        yield lambda: setattr(node, "value", node.value + "x")
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Return) and node.value is not None:
        yield lambda: setattr(node, "value", None)
