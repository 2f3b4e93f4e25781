"""What a program finds around it: what it would find as a file that plain `python` runs, its output going to a pipe."""

import builtins
import contextlib
import io
import linecache
import os
import sys
import types
from typing import Any

NAME = "program.py"

# There is no /proc in the sandbox to lead these to the streams.
_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2} | {
    f"{folder}/{number}": number for folder in ("/dev/fd", "/proc/self/fd") for number in range(3)
}
_RECURSION_LIMIT = sys.getrecursionlimit()
_PLAIN_DEPTH = 1  # frames on the stack of a program that plain Python runs: its own


def new_streams() -> None:
    """Make `sys.stdin`, `stdout` and `stderr` of the descriptors as they are now, as Python does at its start."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        raw = io.FileIO(number, "w" if number else "r", closefd=False)
        raw.name = f"<{name}>"
        buffer = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
        errors = "backslashreplace" if number == 2 else "surrogateescape"
        text = io.TextIOWrapper(buffer, "utf-8", errors, newline="\n", line_buffering=number == 2)
        text.mode = "w" if number else "r"  # type: ignore[misc]
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


def take_place() -> None:
    """Name the program as the one that runs, and its folder as the first that modules are looked for in."""
    sys.argv[:] = [NAME]
    sys.path.insert(0, os.getcwd())  # noqa: PTH109


def name_streams() -> None:
    """Let `open` and `os.open` know the standard streams by the names that they have as files."""
    builtins.open = io.open = _Open(io.open)
    os.open = _OpenDescriptor(os.open)
    os.stat = _Stat(os.stat)
    os.supports_dir_fd |= {os.open, os.stat}
    os.supports_fd.add(os.stat)
    os.supports_follow_symlinks.add(os.stat)


class _Open:
    """`open`; an object, since a function would be a method where a class keeps it."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self.__name__, self.__doc__ = plain.__name__, plain.__doc__

    def __call__(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        stream = _stream(file) if opener is None else None
        if stream is not None:
            opener = lambda path, flags: os.dup(stream)  # noqa: E731
        return self._plain(file, mode, buffering, encoding, errors, newline, closefd, opener)


class _OpenDescriptor:
    """`os.open`."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self.__name__, self.__doc__ = plain.__name__, plain.__doc__

    def __call__(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        stream = _stream(path)
        return self._plain(path, flags, mode, dir_fd=dir_fd) if stream is None else os.dup(stream)


class _Stat:
    """`os.stat`."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self.__name__, self.__doc__ = plain.__name__, plain.__doc__

    def __call__(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        stream = _stream(path) if follow_symlinks else None
        file = path if stream is None else stream
        return self._plain(file, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


def _stream(file: Any) -> int | None:
    """The descriptor that the name of a file stands for."""
    if isinstance(file, int):
        return None
    try:
        return _STREAMS.get(os.fsdecode(file))
    except TypeError:
        return None


class Program:
    """A program's text as module `name`, which has taken its place among the modules.

    Raises what `compile` raises for a text that is not Python.
    """

    def __init__(self, text: str, name: str) -> None:
        source, text = text, text.removeprefix("\ufeff")  # with which a file may begin
        linecache.cache[NAME] = len(text), None, text.splitlines(keepends=True), NAME
        self._module = sys.modules[name] = types.ModuleType(name)
        self._module.__file__ = os.path.abspath(NAME)  # noqa: PTH100
        self._code = compile(text, NAME, "exec", dont_inherit=True)
        _write(source)

    @property
    def namespace(self) -> dict[str, Any]:
        return self._module.__dict__

    def run(self) -> None:
        """Execute it, with as much of the stack as plain Python has. Raises what it raises."""
        sys.setrecursionlimit(_RECURSION_LIMIT + _depth() - _PLAIN_DEPTH)
        exec(self._code, self._module.__dict__)


def _write(source: str) -> None:
    """Put the program where `__file__` and `sys.argv[0]` say that it is, if the folder takes it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            os.write(descriptor, source.encode())
        finally:
            os.close(descriptor)


def _depth() -> int:
    """Frames on the stack where this is called, and one for what is called there next."""
    frame, depth = sys._getframe(), 0
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    return depth + 1
