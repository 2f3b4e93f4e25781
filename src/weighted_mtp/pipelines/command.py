"""How a command fails: one line that names what is wrong and the fix, and an exit code that is not 0."""

import errno
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.configurations import complete
from weighted_mtp.errors import UserError, first_line
from weighted_mtp.progress import console, say
from weighted_mtp.runtime.speaker import AnotherRankError, speaks

ConfigFile = Annotated[
    Path,
    typer.Option(
        "--config",
        help="YAML file, or a name such as local/baseline_local; `wmtp configs list` shows all.",
        autocompletion=complete,
    ),
]
Overrides = Annotated[list[str] | None, typer.Option("--override", help="Set one option: a.b=value. May be repeated.")]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="Resume although a critic, reference, data or tokenizer is another than when the run began; recorded.",
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option("--tokenizer", help="Meta's format: SentencePiece tokenizer.model, if the source has none."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

USER_ERROR, INTERRUPTED = 2, 130

FIXES = {
    errno.ENOSPC: "the disk is full: free some space, or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
    errno.EACCES: "no permission: choose a folder that you may write to",
    errno.EPERM: "no permission: choose a folder that you may write to",
    errno.ENOENT: "cannot be made or read here: choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another folder",
    errno.EEXIST: "a file stands where a folder is needed: choose another folder",
    errno.EISDIR: "a folder stands where a file is needed: give the path of a file",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.EROFS: "the file system is read-only: choose a folder that you may write to",
}

NO_MEMORY = ("DefaultCPUAllocator", "Storage size calculation overflowed")
"""How torch's CPU allocator says it."""
LESS_MEMORY = (
    "lower data.max_tokens, set runtime.activation_checkpointing=true (`wmtp plan` says what a run needs then), or "
    "lower --batch-size of an evaluation"
)


@contextmanager
def user_errors(debug: bool) -> Iterator[None]:
    """Turn what a user can fix into one line on standard error; anything else is a bug and keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        message = one_line(error)
        if debug or message is None:
            raise
        if speaks(message) and not isinstance(error, AnotherRankError):
            console.quiet = False
            say(f"error: {message}")
        sys.exit(USER_ERROR)


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Say what begins before the imports that it needs, which take seconds; of several ranks only the first does.

    The garbage collector rests meanwhile, a seventh of the import of PyTorch, and leaves alone what is there then.
    """
    if int(os.environ.get("RANK", "0")) == 0:
        say(f"{what} …")
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if gc.get_freeze_count() == 0:  # once in a process, since it would also keep what is garbage by then
            gc.freeze()


def chosen(option: str, names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The names that an option has, in the order of `known`; all of them for `all`.

    Raises UserError for a name that is not known, and for none.
    """
    unknown = [name for name in names if name not in (*known, "all")]
    if unknown or not names:
        wrong = unknown[0] if unknown else "nothing"
        raise UserError(f"{option} {','.join(names)}: {wrong or 'nothing'} is not one of {', '.join(known)}, all")
    return tuple(name for name in known if name in names or "all" in names)


def one_line(error: BaseException) -> str | None:
    """The line of an error that a user can fix, None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in FIXES:
        return f"{error.filename or 'writing'}: {FIXES[error.errno]}"
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for this
        or any(text in str(error) for text in NO_MEMORY)
    ):
        return f"out of memory ({first_line(error)[:200]}): {LESS_MEMORY}"
    # Native writers (safetensors, Arrow, DCP) wrap the system's error in types of their own.
    if "No space left on device" in str(error):
        return f"writing: {FIXES[errno.ENOSPC]}"
    return None
