"""Copies of a run's checkpoints on another file system (S3 and whatever else fsspec reaches), made in the background.

The run never waits for them before its end and never ends for them: the local folder is the truth, and a copy that
fails is reported and tried again at the next save and once more at the end.
"""

from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Self

from fsspec.core import url_to_fs

from weighted_mtp.errors import UserError, first_line
from weighted_mtp.manifest import MANIFEST, named_files
from weighted_mtp.models.checkpoint import checkpoints_in
from weighted_mtp.progress import console

_OF_THE_RUN = ("config.yaml", "run.json", "metrics.jsonl")


class Uploads:
    """A context manager around a run; `start()` after each save. Leaving it waits for what is under way.

    A copy has the run's own form, `checkpoints/step-…`. A checkpoint's manifest comes last, after all files it names,
    so that one that has it is whole. What is deleted here, as newer checkpoints come, stays there.
    """

    def __init__(self, run: Path, target: str) -> None:
        """
        run     its folder
        target  the copy's folder, as fsspec names it: `s3://bucket/runs/NAME`

        Raises UserError if nothing here can write to such a target.
        """
        self.run, self.target = run, target
        try:
            self._files, self._root = url_to_fs(target)
        except (ImportError, ValueError) as error:
            raise UserError(f"training.upload_to={target}: {first_line(error)}") from error
        self._there: set[str] = set()
        self._one_at_a_time, self._thread = Lock(), Thread()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if self._thread.is_alive():
                console.print(f"waiting for the copies to {self.target}")
                self._thread.join()
            self._copy_what_is_missing()

    def start(self) -> None:
        """Copy in the background what is not there yet; what is being copied already continues."""
        if not self._thread.is_alive():
            self._thread = Thread(target=self._copy_what_is_missing, name="uploads", daemon=True)
            self._thread.start()

    def _copy_what_is_missing(self) -> None:
        with self._one_at_a_time:
            for checkpoint in reversed(checkpoints_in(self.run / "checkpoints")):  # the newest is worth most
                if checkpoint.name in self._there:
                    continue
                try:
                    self._copy(checkpoint)
                    self._there.add(checkpoint.name)
                except Exception as error:  # whatever a file system's library raises
                    if checkpoint.is_dir():  # else it is no loss: newer ones have taken its place meanwhile
                        console.print(
                            f"UPLOAD FAILED: {checkpoint} to {self.target} ({type(error).__name__}: "
                            f"{first_line(error)}); the local copy is whole, and it is tried again at the next save "
                            "and at the end",
                            markup=False,
                        )

    def _copy(self, checkpoint: Path) -> None:
        manifest = checkpoint / MANIFEST
        if self._holds(manifest):  # of an earlier start of the run
            return
        named = [checkpoint / name for name in named_files(checkpoint)]  # some may be deleted already
        for file in (*(self.run / name for name in _OF_THE_RUN), *named, manifest):
            remote = self._remote(file)
            self._files.makedirs(remote.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(file), remote)

    def _holds(self, file: Path) -> bool:
        remote = self._remote(file)
        return self._files.exists(remote) and self._files.cat_file(remote) == file.read_bytes()

    def _remote(self, file: Path) -> str:
        return f"{self._root}/{file.relative_to(self.run).as_posix()}"
