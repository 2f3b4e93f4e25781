"""What every scheduler of steps shares: a step that runs somewhere, what comes back of it, and how all are stopped."""

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from weighted_mtp.errors import UserError
from weighted_mtp.pipelines.command import one_line
from weighted_mtp.study.steps import Step


class Running(Protocol):
    """A step that was handed over."""

    def done(self) -> bool: ...

    def result(self) -> bool | UserError:
        """What `result_of` returns. Raises `UserError` if the process was lost, anything else for a bug."""


Submit = Callable[[Step], Running]


def result_of(step: Step) -> bool | UserError:
    """Run a step in another process: what it returns, or the error that a user can fix, since the errors'
    classes need not survive pickling. The traceback is in the log.
    """
    try:
        return step()
    except KeyboardInterrupt:
        return False
    except Exception as error:
        traceback.print_exc()
        message = one_line(error)
        if message is None:
            raise
        return UserError(message)


@contextmanager
def ending(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` if the block is left by an error or Ctrl-C, or by SIGTERM, which then is one."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except BaseException:
        end()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
