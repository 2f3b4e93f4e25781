"""Progress of anything longer than a few seconds: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

SECONDS_BETWEEN_LINES = 15.0

console = Console(stderr=True)

Advance = Callable[..., None]


def say(line: str) -> None:
    """Print one line as it is: no markup, no colours, not wrapped, so that paths and brackets survive."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Yield `advance(n=1, note="")`, to be called as items finish; `note` is what to show beside them.

    Goes to standard error, so that standard output holds only results.
    """
    if console.quiet:
        yield lambda n=1, note="": None
        return
    if sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(title, total=total, completed=done, note="")
            yield lambda n=1, note="": bar.update(task, advance=n, **({"note": note} if note else {}))
        return
    lines = _Lines(title, total, done)
    lines.write()
    yield lines.advance
    if lines.written != lines.done:
        lines.write()


def _bar() -> "Progress":
    from rich import progress as columns  # large, and a log has no bar

    class Rate(columns.ProgressColumn):
        """Recent items per second."""

        def render(self, task: columns.Task) -> str:
            speed = task.finished_speed or task.speed
            return _per_second(speed) if speed else ""

    return columns.Progress(
        columns.TextColumn("{task.description}"),
        columns.BarColumn(),
        columns.MofNCompleteColumn(),
        Rate(),
        columns.TimeElapsedColumn(),
        columns.TimeRemainingColumn(),
        columns.TextColumn("{task.fields[note]}"),
        console=console,
    )


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


class _Lines:
    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done, self.note = title, total, done, ""
        self.start, self.first, self.written, self.last = time.monotonic(), done, -1, 0.0

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        self.note = note or self.note
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.write()

    def write(self) -> None:
        self.last, self.written = time.monotonic(), self.done
        seconds = self.last - self.start
        rate = (self.done - self.first) / seconds if seconds > 0 else 0.0
        speed = f", {_per_second(rate)}" if rate else ""
        left = f", about {(self.total - self.done) / rate:.0f} s left" if rate and self.done < self.total else ""
        note = f"  {self.note}" if self.note else ""
        print(
            f"{self.title}: {self.done}/{self.total}, {seconds:.0f} s{speed}{left}{note}", file=sys.stderr, flush=True
        )
