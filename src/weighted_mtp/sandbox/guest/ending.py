"""How a script ends: as a Python process does, but for the modules that it did not make, which are not taken apart.

The interpreter's own `Py_FinalizeEx` would clear hundreds of them, in pages that this process shares with its parent
(measured: 10 ms, three times what all the rest of a small script takes). The order here is that function's: threads,
exit handlers, standard streams, the program's module, what cycles keep, what hangs on `builtins` and `sys`, the streams
once more.
"""

import atexit
import builtins
import ctypes
import sys
from collections.abc import Callable
from gc import collect
from typing import Any

FLUSH_FAILED = 120
"""Python's exit code where standard output does not take what is left."""

_before: dict[str, dict[str, Any]] = {}
_flush_c_streams = ctypes.CDLL(None).fflush


def remember() -> None:
    """Keep what `builtins` and `sys` are like before there is a program."""
    for module in (builtins, sys):
        _before[module.__name__] = dict(vars(module))


def exit_code(leaving: SystemExit) -> int:
    """That of a script that ends by SystemExit; a text goes to standard error."""
    code = leaving.code
    if code is None:
        return 0
    if isinstance(code, int):
        return (code if abs(code) < 1 << 63 else -1) & 0xFF
    _tried(lambda: print(code, file=sys.stderr))
    return 1


def end_script() -> bool:
    """End the script, whose module is `__main__` and to which nothing else may refer; whether its output is all out."""
    if "threading" in sys.modules:
        _tried(lambda: sys.modules["threading"]._shutdown())
    _tried(atexit._run_exitfuncs)
    is_out = _flush_streams()
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, name, getattr(sys, f"__{name}__", None))
    sys.modules.pop("__main__", None)
    collect()
    for module in (builtins, sys):
        _restore(vars(module), _before[module.__name__])
    collect()
    _flush_streams()  # what fails here no longer counts, as a stream that the program has detached
    _flush_c_streams(None)
    return is_out


def _tried(step: Callable[[], Any]) -> bool:
    """Whether a step was done; what it raises goes nowhere, as at a process' end."""
    try:
        step()
    except BaseException:
        return False
    return True


def _flush_streams() -> bool:
    """Flush standard output and error, unless they are closed or gone; whether the first took it all."""
    is_out = True
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name, None)
        if stream is not None and not _is_closed(stream):
            is_out &= _tried(stream.flush) or name == "stderr"
    return is_out


def _is_closed(stream: Any) -> bool:
    try:
        return bool(stream.closed)
    except BaseException:  # a detached stream does not say, and the program's own may raise anything
        return False


def _restore(names: dict[str, Any], before: dict[str, Any]) -> None:
    """Drop what is new, and put back what was replaced."""
    for name in [name for name in names if name not in before]:
        del names[name]
    for name, value in before.items():
        if names.get(name) is not value:
            names[name] = value
