"""What player and judge say to the harness: read with distrust, and turned into verdicts."""

import signal
from typing import Any, Literal

from weighted_mtp.sandbox.guest.codec import CodecError, unpack
from weighted_mtp.sandbox.interpreter import CPU_TIME, OFF_SCRIPT

Status = Literal["passed", "failed", "cannot_be_compared", "timed_out", "out_of_memory", "refused", "broken"]

UNDECIDED: Status = "cannot_be_compared"
"""Neither right nor wrong: only the program's own code could say whether a value is the expected one."""


class Ended(Exception):
    """A verdict reached in the middle of the exchange."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def unpacked(payload: bytes) -> dict[str, Any]:
    """A message of the player, which may be anything."""
    try:
        message = unpack(payload)
    except CodecError:
        message = None
    if not isinstance(message, dict):
        raise off_script()
    return message


def off_script() -> Ended:
    return Ended("failed", OFF_SCRIPT)


def verdict_of(payload: bytes) -> tuple[Status, str, int]:
    message = unpack(payload)
    return message["verdict"]["status"], message["verdict"]["detail"], message["test"]


def raise_if_bad(message: dict[str, Any]) -> None:
    """End with what a player's message says is wrong: "broken" is a text, "error" [builtin class name, text].

    Nothing else is taken: whatever is made of a deeply nested value could exhaust this process' own stack.
    """
    broken, error = message.get("broken"), message.get("error")
    if isinstance(broken, str):
        raise Ended("broken", broken)
    if broken is None and error is None:
        return
    if not (isinstance(error, list) and len(error) == 2 and all(isinstance(part, str) for part in error)):
        raise off_script()
    raise Ended(_STATUS_OF.get(error[0], "failed"), error[1])


_STATUS_OF: dict[str, Status] = {"MemoryError": "out_of_memory", "PermissionError": "refused"}


def bad_end(status: int) -> Ended:
    """Wait status → a verdict."""
    number = status & 0x7F
    if number == signal.SIGXCPU:
        return Ended("timed_out", CPU_TIME)
    if number:
        return Ended("failed", f"the program was killed by {signal.Signals(number).name}")
    return Ended("failed", f"the program ended itself with exit code {status >> 8}")


def shown(text: str) -> str:
    """A program's text without what steers a terminal, and without halves of characters."""
    return "".join(
        char if char in "\n\t" or char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
