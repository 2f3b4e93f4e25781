"""A text that is Python, and what can be said of it without running it."""

import ast
import builtins
import codeop
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from weighted_mtp.evaluation.extraction.statements import Statement, evaluated, names_in, reached, statements, using

_READS = frozenset(["input", "raw_input", "stdin", "__stdin__", "fileinput", "open", "read", "readline", "readlines"])
_PRINTS = frozenset(["print", "stdout", "__stdout__", "write", "writelines"])
_ENDS = frozenset(["assert", "exit", "quit", "_exit", "SystemExit", "unittest", "pytest"])
_TESTS = frozenset(["unittest", "pytest", "subprocess", "doctest"])
_BUFFERS = frozenset(["StringIO", "BytesIO"])
_ELLIPSIS = re.compile(r"^[ \t]*(?:#[ \t]*)?(?:\.\.\.|…)[^\n]*$", re.MULTILINE)
_MARKERS = frozenset(["python", "python3", "py", "Python", "BEGIN", "DONE", "PYTHON"])
_KNOWN = frozenset([*dir(builtins), "__file__", "__annotations__"])

# Python refuses longer decimal literals (`sys.set_int_max_str_digits`), and the sandbox does not. A hexadecimal literal
# may have any number of digits, so one takes its place, character for character, in what is only parsed.
_LONG_NUMBER = re.compile(r"\d{4000,}")


@dataclass(frozen=True)
class Source:
    """Python, of one place in an answer. Names are those of the module's own scope.

    line  of the answer at which it begins, from 0
    """

    text: str
    tree: ast.Module
    line: int = 0

    @cached_property
    def statements(self) -> Sequence[Statement]:
        """None of what a parser takes and a compiler does not."""
        try:
            with no_warnings():
                return statements(self.tree, _parsed_text(self.text))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return ()

    @cached_property
    def defined(self) -> frozenset[str]:
        """Names bound in any way but an import."""
        return frozenset(name for statement in self.statements for name in statement.defines)

    @cached_property
    def variables(self) -> frozenset[str]:
        """Those that no function or class has."""
        return frozenset(name for s in self.statements if not s.is_definition for name in s.defines)

    @cached_property
    def imported(self) -> frozenset[str]:
        """Names bound by imports; "*" if everything of a module is imported."""
        return frozenset(name for statement in self.statements for name in statement.imports)

    @cached_property
    def needed(self) -> frozenset[str]:
        """Names that must come from elsewhere: bound nowhere here, or looked up before they are."""
        used = {name for statement in self.statements for name in statement.uses}
        return frozenset(used - self.defined - self.imported | self.needed_at_once) - _KNOWN

    @cached_property
    def needed_at_once(self) -> frozenset[str]:
        """Those without which it cannot even be loaded, as the `f` that `f = cache(f)` looks up."""
        bound: set[str] = set()
        needed: set[str] = set()
        for statement in self.statements:
            own = statement.defines | statement.imports
            is_plain = isinstance(statement.node, ast.Assign | ast.AugAssign)
            needed |= statement.uses_at_once - bound - (set() if is_plain else own)
            bound |= own
        return frozenset(needed - _KNOWN)

    @cached_property
    def acts(self) -> bool:
        """Whether it calls anything as soon as it is run."""
        return any(
            isinstance(node, ast.Call)
            for statement in self.tree.body
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            for node in evaluated(statement)
        )

    @property
    def defines_functions(self) -> bool:
        """Whether there is a function or a class in it."""
        return any(statement.is_definition for statement in self.statements)

    @cached_property
    def is_script(self) -> bool:
        """Whether it acts, and has both standard input and standard output in it."""
        if not self.acts:
            return False
        words = frozenset(word for statement in self.statements for word in statement.names)
        return bool(words & _READS and words & _PRINTS)

    @cached_property
    def replaces_input(self) -> bool:
        """Whether it puts a text of its own in the place of standard input, or is a unit test: it tries out a program.

        `sys.stdin = io.StringIO(sys.stdin.read())` only reads sooner.
        """
        return bool(_TESTS & self.imported) or any(
            names_in(value) & _BUFFERS and not names_in(value) & _READS
            for node in ast.walk(self.tree)
            if (value := _put_in_place(node)) is not None
        )

    def is_excerpt_of(self, other: "Source") -> bool:
        """Whether its lines are some of the other's that stand together, from inside of a block or at most half of all,
        with an ellipsis in the place of what is left out."""
        parts = [part.splitlines() for part in _ELLIPSIS.split(self.text)]
        mine = [[line.strip() for line in part if line.strip()] for part in parts]
        lines = [line for line in other.text.splitlines() if line.strip()]
        theirs = [line.strip() for line in lines]
        place, first = 0, None
        for part in filter(None, mine):
            found = next(
                (n for n in range(place, len(theirs)) if theirs[n] == part[0] and theirs[n : n + len(part)] == part),
                None,
            )
            if found is None:
                return False
            first, place = found if first is None else first, found + len(part)
        return first is not None and (lines[first][0].isspace() or 2 * sum(map(len, mine)) <= len(lines))

    @cached_property
    def is_body(self) -> bool:
        """Whether it returns or yields outside of any function: a function's body, without its head."""
        returns = (ast.Return, ast.Yield, ast.YieldFrom)
        return any(isinstance(node, returns) for statement in self.tree.body for node in evaluated(statement))

    @property
    def begins_with_words(self) -> bool:
        """Whether the first statement could as well be prose: "Sure, gladly"."""
        first = self.tree.body[0]
        return _is_word(first) and any(isinstance(node, ast.Name) for node in ast.walk(first))

    def lines_of_strings(self) -> set[int]:
        """Numbers, from 0, of the lines on which there is any text of a string."""
        nodes = (node for node in ast.walk(self.tree) if isinstance(node, ast.Constant | ast.JoinedStr))
        strings = (node for node in nodes if not isinstance(node, ast.Constant) or isinstance(node.value, str | bytes))
        return {line - 1 for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}

    def has_only_stub(self, name: str) -> bool:
        """Whether all that there is of the function `name` is its head and a docstring."""
        nodes = [statement.node for statement in self.statements if name in statement.defines][-1:]
        return any(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and all(map(_is_idle, n.body)) for n in nodes)

    def without_words(self) -> "Source":
        """Without statements that are a word of prose or a marker: `[DONE]`, `Complexity: O(n)`.

        Each looks up a name that nothing binds, so that the program with it could only fail.
        """
        if not any(map(_is_word, self.tree.body)):
            return self
        known = self.defined | self.imported | _KNOWN
        words = [s for s in self.statements if _is_word(s.node) and s.uses_at_once - known]
        if "*" in self.imported:  # which may be of anything
            words = [s for s in words if s.uses_at_once <= _MARKERS]
        return self._without(words) if len(words) < len(self.statements) else self

    def without_examples(self, entry_point: str) -> "Source":
        """Without what follows the function, is not used by it, and can fail although the function is right:
        assertions, and statements that wait for input or end the program."""
        places = [place for place, statement in enumerate(self.statements) if entry_point in statement.defines]
        if not places:
            return self
        after = [s for s in self.statements[places[-1] + 1 :] if not s.is_main_guard]
        return self._without(_harmful(after, self.statements, [entry_point], _READS | _ENDS))

    def only_what_serves(self, wanted: Set[str]) -> "Source":
        """Without what acts for itself (it reads, prints, asserts or ends), since another text wants these names.

        All of it if they come from the input: that text continues this one.
        """
        serving = [s for s in reached(wanted, self.statements) if not s.is_definition and not s.is_import]
        if any(statement.names & _READS for statement in serving):
            return self
        return self._without(_harmful(self.statements, self.statements, wanted, _READS | _PRINTS | _ENDS))

    def future_imports(self) -> list[str]:
        """What it imports from __future__."""
        return [alias.name for statement in self._from_future() for alias in statement.node.names]  # type: ignore[attr-defined]

    def without_future_imports(self) -> "Source":
        return self._without(self._from_future())

    def _from_future(self) -> list[Statement]:
        return [s for s in self.statements if isinstance(s.node, ast.ImportFrom) and s.node.module == "__future__"]

    def _without(self, dropped: Iterable[Statement]) -> "Source":
        """Without the lines of these statements, as far as they hold no other."""
        numbers = {id(statement) for statement in dropped}
        if not numbers:
            return self
        kept = {line for statement in self.statements if id(statement) not in numbers for line in statement.lines}
        gone = {line for statement in self.statements if id(statement) in numbers for line in statement.lines} - kept
        text = "".join(line for place, line in enumerate(split_lines(self.text)) if place not in gone)
        return parse(text, self.line) or self


def parse(text: str, line: int = 0) -> Source | None:
    """A text as Python; None if it is not Python."""
    try:
        return Source(text, _tree(text), line)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def syntax_error(text: str) -> SyntaxError | None:
    """Why a text is not Python; None if it is."""
    try:
        _tree(text)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError) as error:
        return SyntaxError(str(error), ("<answer>", 1, 0, ""))
    return None


def is_unfinished(text: str) -> bool:
    """Whether more lines might make Python of a text that is not."""
    try:
        with no_warnings():
            return text.rstrip().endswith("\\") or codeop.compile_command(_parsed_text(text), symbol="exec") is None
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return False


def split_lines(text: str) -> list[str]:
    """Lines with their ends, where Python and Markdown see them; `str.splitlines` sees some inside of literals."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)


def _tree(text: str) -> ast.Module:
    with no_warnings():
        return ast.parse(_parsed_text(text))


@contextmanager
def no_warnings() -> Iterator[None]:
    """Nobody here can do anything about a stranger's invalid escape sequence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _parsed_text(text: str) -> str:
    """What the parser gets: a byte order mark may begin a file, and not a text."""
    return _LONG_NUMBER.sub(lambda digits: "0x" + "1" * (len(digits[0]) - 2), text.removeprefix("\ufeff"))


def _harmful(
    looked_at: Iterable[Statement], every: Sequence[Statement], serving: Iterable[str], words: Set[str]
) -> list[Statement]:
    """Those of `looked_at` that have such a word in them or in a function that they use, and those that need what these
    bind; never a definition, an import, or what the names in `serving` rest on."""
    kept = {id(statement) for statement in reached(serving, every)}
    definitions = [statement for statement in every if statement.is_definition and id(statement) not in kept]
    avoided = using([name for s in definitions if s.names & words for name in s.defines], definitions)
    found: list[Statement] = []
    for statement in looked_at:
        is_free = not statement.is_definition and not statement.is_import and id(statement) not in kept
        if is_free and (statement.names & words or statement.uses & avoided):
            found.append(statement)
            avoided |= statement.defines
    return found


def _put_in_place(node: ast.AST) -> ast.expr | None:
    """What a node puts in the place of standard input; None if it does not."""
    match node:
        case ast.Assign(targets=targets, value=value) if any("stdin" in names_in(target) for target in targets):
            return value
        case ast.Call(func=function, args=[ast.Constant(value="sys.stdin"), value, *_]) if "patch" in names_in(
            function
        ):
            return value
        case ast.Call(func=function, args=[_, ast.Constant(value="stdin"), value, *_]) if "setattr" in names_in(
            function
        ):
            return value
    return None


def _is_idle(statement: ast.stmt) -> bool:
    """Whether a statement is one of those that stand where a body is still to be written."""
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Raise(exc=ast.Name(id="NotImplementedError") | ast.Call(func=ast.Name(id="NotImplementedError"))):
            return True
    return False


def _is_word(statement: ast.stmt) -> bool:
    match statement:
        case ast.AnnAssign(value=None):
            return True
        case ast.Expr(value=value):
            acting = (ast.Call, ast.Await, ast.NamedExpr, ast.Yield, ast.YieldFrom)
            return not any(isinstance(node, acting) for node in ast.walk(value))
    return False
