"""The folder of one evaluation: what it was made from, what of it exists already, and whether it may be resumed.

    evaluation.json            `Origin` of the samples, and `Execution`: what they were executed with
    samples.jsonl              drawn from a model; absent where somebody's own file is scored
    speed.json                 how fast they were drawn: `Speed`
    results.jsonl              the samples with their verdicts
    report.json, report.md     what they add up to

Samples and results grow in `….partial` beside them, a `Journal` (of several ranks each has its own), and are there
whole or not at all. What a journal of any rank holds counts, however many ranks resume.
"""

import datetime
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.journal import Journal
from weighted_mtp.files import atomic_file
from weighted_mtp.progress import console
from weighted_mtp.runtime.distributed import agree, is_first, rank
from weighted_mtp.section import Section, differences, validated


class Origin(Section):
    """What samples are samples of. Of a model, the same of all this gives the same samples."""

    benchmark: str
    split: str
    first: int | None
    problems_sha256: str
    samples_sha256: str | None = None
    """SHA-256 of the file of samples, if there is one; then nothing of what follows is set."""
    model_sha256: str | None = None
    served_model: str | None = None
    """A server's name for its model, in place of a checksum."""
    tokenizer_sha256: str | None = None
    """SHA-256 of the tokenizer that rendered a server's prompts, if one did."""
    template: str | None = None
    day: datetime.date | None = None
    """What a chat template takes for today."""
    engine: str | None = None
    vllm_args: tuple[str, ...] = ()
    dtype: str | None = None
    device: str | None = None
    sampling: SamplingConfig | None = None


class Speed(Section):
    """How fast samples were drawn.

    tokens   that models gave
    passes   forward passes of which a sample was part, over all samples: with drafts a pass may give several tokens
    seconds  of sampling, over all ranks
    """

    tokens: int
    passes: int
    seconds: float

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Self:
        """The sums over a journal's records."""
        counted = [(record["tokens"], record["passes"], record["seconds"]) for record in records]
        tokens, passes, seconds = (sum(column) for column in zip(*counted, strict=True))
        return cls(tokens=tokens, passes=passes, seconds=seconds)

    @property
    def described(self) -> str:
        rate = f"{self.tokens / self.seconds:,.0f} tokens/s" if self.seconds else f"{self.tokens:,} tokens"
        drafted = self.passes < self.tokens and self.passes > 0
        return rate + (f", {self.tokens / self.passes:.2f} accepted per pass" if drafted else "")


class Execution(Section):
    """What samples are executed with; the same of all this gives the same verdicts. None leaves a limit as it is."""

    samples_sha256: str
    cpu_seconds: float | None = None
    memory_mb: int | None = None
    time_factor: float | None = None
    packages: tuple[str, ...] = ()
    unsafe: bool = False


class _Described(Section):
    """`evaluation.json`."""

    origin: Origin
    execution: Execution | None = None


class EvaluationFolder:
    """A context manager, which keeps other processes out from the moment at which something is written.

    Nothing is written before a journal is opened. Raises UserError for a folder that holds other samples.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self.path = path
        self.samples, self.results = path / "samples.jsonl", path / "results.jsonl"
        self.report, self.page = path / "report.json", path / "report.md"
        self._file, self._speed = path / "evaluation.json", path / "speed.json"
        self._lock = FileLock(path / ".lock", timeout=0)
        self._described = self._read() or _Described(origin=origin)
        if changed := differences(self._described.origin, origin):
            raise UserError(
                f"{path} holds an evaluation of other samples ({'; '.join(changed)}): "
                "give another --output, or delete that folder"
            )
        if origin.samples_sha256 is None and self.samples.exists() and not self._file.exists():
            raise UserError(f"{self.samples} is there, and nothing says what drew it: give another --output")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release(force=True)

    @property
    def has_samples(self) -> bool:
        """Whether all samples of a model are drawn."""
        return self._described.origin.samples_sha256 is None and self.samples.is_file()

    def has_results(self, execution: Execution) -> bool:
        """Whether all samples have their verdicts."""
        return self._described.execution == execution and self.results.is_file()

    @property
    def speed(self) -> Speed | None:
        """How fast the samples were drawn; None if that is not known."""
        try:
            return validated(Speed, json.loads(self._speed.read_text(encoding="utf-8")))
        except (OSError, ValueError, UserError):
            return None

    def write_speed(self, speed: Speed) -> None:
        with atomic_file(self._speed) as partial:
            partial.write_text(speed.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def sampling(self) -> Journal:
        """Where this rank's samples go; the first rank's holds those that are drawn so far."""
        return self._begin(self.samples, self._described)

    def execution(self, execution: Execution) -> Journal:
        """Where this rank's verdicts go; the first rank's holds those that are there so far. Those of another execution
        are dropped."""
        return self._begin(self.results, _Described(origin=self._described.origin, execution=execution))

    def _begin(self, file: Path, described: _Described) -> Journal:
        with agree():
            if is_first():
                self._take(described)
                collect(_partial(file))
        self._described = described
        return Journal(_partial(file, rank()))

    def _take(self, described: _Described) -> None:
        """Keep other processes out, and drop what was made otherwise than described."""
        before = self._described.execution
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            if before != described.execution:
                self._drop_results(before, described.execution)
            with atomic_file(self._file) as partial:
                partial.write_text(described.model_dump_json(indent=2) + "\n", encoding="utf-8")
        except Timeout as error:
            raise UserError(
                f"{self.path}: another process is at work on this evaluation; wait for it, or give another --output"
            ) from error
        except OSError as error:
            raise UserError(f"--output {self.path}: cannot be written ({error.strerror or error})") from error
        self._described = described

    def _drop_results(self, before: Execution | None, after: Execution | None) -> None:
        if before is not None and after is not None:
            changed = "; ".join(differences(before, after))
            console.print(f"{self.path}: executing again, with other options ({changed})", soft_wrap=True)
        for file in (self.report, self.page, self.results, *_partials(_partial(self.results))):
            file.unlink(missing_ok=True)

    def _read(self) -> _Described | None:
        try:
            return validated(_Described, json.loads(self._file.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, UserError) as error:
            raise UserError(
                f"{self._file} is damaged or of another version: give another --output, or delete that folder"
            ) from error


def begun_on(path: Path) -> datetime.date | None:
    """The `day` of the evaluation that a folder holds; None if it holds none."""
    try:
        day = json.loads((path / "evaluation.json").read_text(encoding="utf-8"))["origin"]["day"]
        return None if day is None else datetime.date.fromisoformat(day)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def collect(first: Path) -> None:
    """Move what the other ranks' journals hold into the first rank's. Killed in between, some records are in both."""
    others = [path for path in _partials(first) if path != first]
    with Journal(first) as journal:
        for path in others:
            with Journal(path) as other:
                journal.add(other.records)
            path.unlink()


def _partials(first: Path) -> list[Path]:
    """The journals of all ranks there ever were."""
    return sorted(first.parent.glob(f"{first.name}*"))


def _partial(file: Path, number: int = 0) -> Path:
    return file.with_name(f"{file.name}.partial" + (f"-{number}" if number else ""))
