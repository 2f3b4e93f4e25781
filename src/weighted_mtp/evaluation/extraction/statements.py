"""The statements of a module: which of its names each binds and uses, and what it touches. Nothing is ever run here."""

import ast
import symtable
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Statement:
    """A top-level statement.

    lines   where it stands, from 0, decorators included
    scopes  its functions, classes, lambdas and what is inside of them
    """

    node: ast.stmt
    lines: range
    scopes: Sequence[symtable.SymbolTable]

    @property
    def is_definition(self) -> bool:
        return isinstance(self.node, DEFINITIONS)

    @property
    def is_import(self) -> bool:
        return isinstance(self.node, IMPORTS)

    @property
    def is_main_guard(self) -> bool:
        """Whether it is `if __name__ == …:`."""
        return isinstance(self.node, ast.If) and "__name__" in names_in(self.node.test)

    @cached_property
    def _nodes(self) -> list[ast.AST]:
        return list(evaluated(self.node))

    @cached_property
    def imports(self) -> frozenset[str]:
        """Names that it binds by importing; "*" if it imports everything of a module."""
        nodes = (node for node in self._nodes if isinstance(node, IMPORTS))
        return frozenset(alias.asname or alias.name.split(".")[0] for node in nodes for alias in node.names)

    @cached_property
    def defines(self) -> frozenset[str]:
        """Names that it binds in any other way, at once or when one of its functions is called."""
        by_functions = (
            symbol.get_name()
            for scope in self.scopes
            for symbol in scope.get_symbols()
            if symbol.is_declared_global() and symbol.is_assigned()
        )
        declares = isinstance(self.node, ast.AnnAssign) and self.node.value is None
        at_once = (name for node in self._nodes if not declares for name in _bound(node))
        return frozenset({*at_once, *by_functions})

    @cached_property
    def uses_at_once(self) -> frozenset[str]:
        """Names that it looks up when it is executed."""
        inner = (node for node in self._nodes if isinstance(node, _COMPREHENSIONS))
        own = {n.id for c in inner for g in c.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        return frozenset({n.id for n in self._nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} - own)

    @cached_property
    def uses(self) -> frozenset[str]:
        """Names of the module that it looks up at once or when one of its functions is called."""
        in_functions = (
            symbol.get_name()
            for scope in self.scopes
            for symbol in scope.get_symbols()
            if symbol.is_referenced() and symbol.is_global()
        )
        return frozenset({*self.uses_at_once, *in_functions})

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name, attribute and imported name in it, and "assert" if it asserts something."""
        return names_in(self.node)


def statements(tree: ast.Module, text: str) -> list[Statement]:
    """The statements of a module. Raises as `compile` for what a parser takes and a compiler does not."""
    places = [_lines(node) for node in tree.body]
    starts = [lines.start for lines in places]
    scopes: list[list[symtable.SymbolTable]] = [[] for _ in places]
    for scope in symtable.symtable(text, "<answer>", "exec").get_children():
        scopes[max(bisect_right(starts, scope.get_lineno() - 1) - 1, 0)] += _nested(scope)
    return [Statement(*found) for found in zip(tree.body, places, scopes, strict=True)]


def names_in(node: ast.AST) -> frozenset[str]:
    """Every name, attribute and imported name below a node, and "assert" if anything is asserted."""
    found: set[str] = set()
    for inner in ast.walk(node):
        match inner:
            case ast.Name(id=word) | ast.Attribute(attr=word):
                found.add(word)
            case ast.alias(name=name):
                found.update(name.split("."))
            case ast.Assert():
                found.add("assert")
    return frozenset(found)


def reached(names: Iterable[str], among: Sequence[Statement]) -> list[Statement]:
    """The statements that bind these names, or names that such a statement uses, and so on."""
    binding: dict[str, list[Statement]] = {}
    for statement in among:
        for name in statement.defines | statement.imports:
            binding.setdefault(name, []).append(statement)
    seen: set[str] = set()
    found: dict[int, Statement] = {}
    waiting = set(names)
    while waiting:
        seen |= waiting
        new = [statement for name in waiting for statement in binding.get(name, ()) if id(statement) not in found]
        found.update({id(statement): statement for statement in new})
        waiting = {name for statement in new for name in statement.uses} - seen
    return list(found.values())


def using(names: Iterable[str], among: Iterable[Statement]) -> set[str]:
    """These names, and those of statements that use one of them, directly or not."""
    users: dict[str, list[Statement]] = {}
    for statement in among:
        for name in statement.uses:
            users.setdefault(name, []).append(statement)
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        found |= waiting
        waiting = {user for name in waiting for statement in users.get(name, ()) for user in statement.defines} - found
    return found


def evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """A statement's nodes without the bodies of functions and classes."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        inside: Iterable[ast.AST] = ast.iter_child_nodes(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = [*node.decorator_list, node.args]
        elif isinstance(node, ast.ClassDef):
            inside = [*node.decorator_list, *node.bases, *node.keywords]
        elif isinstance(node, ast.Lambda):
            inside = [node.args]
        waiting.extend(inside)


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that a node itself binds, but for imports."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.ExceptHandler(name=str(name)):
            yield name


def _lines(node: ast.stmt) -> range:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return range(first - 1, node.end_lineno or first)


def _nested(scope: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    waiting = [scope]
    while waiting:
        scope = waiting.pop()
        yield scope
        waiting.extend(scope.get_children())
