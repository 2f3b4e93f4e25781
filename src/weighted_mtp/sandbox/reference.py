"""What a dataset's own programs return: the expected values of benchmarks that publish only inputs."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from weighted_mtp.data.schema import TestCase
from weighted_mtp.errors import UserError
from weighted_mtp.sandbox.confinement import check_available
from weighted_mtp.sandbox.job import Job, Limits
from weighted_mtp.sandbox.worker import CallsUnanswered, Worker

_LONGEST = 1_000_000  # bytes
_LIMITS = Limits(cpu_seconds=300, wall_seconds=1800, memory_mb=4096, output_bytes=1 << 30)


class ReferenceRunner:
    """Runs programs that are right by definition, isolated as any other; a context manager.

    Nothing is started before the first call.
    """

    def __init__(self) -> None:
        self._trial: Worker | None = None

    def __enter__(self) -> "ReferenceRunner":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._trial is not None:
            self._trial.close()

    def __call__(self, program: str, entry_point: str, inputs: Sequence[str]) -> list[Any]:
        """What `entry_point` returns to each of `inputs`, which are Python literals of argument tuples.

        Values are of exact builtin types; any other object is an `object()`, and TOO_LONG one of over a million bytes.
        Raises UserError if the program does not return them all, or on a machine that cannot confine it.
        """
        if self._trial is None:
            self._trial = Worker(check_available())
        job = Job(program, entry_point, [TestCase("call", given, "") for given in inputs], _LIMITS)
        try:
            return self._trial.answers(job, _LONGEST)
        except CallsUnanswered as error:
            raise UserError(f"the reference {entry_point} does not answer: {error}") from error
