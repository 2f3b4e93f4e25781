"""A run's curves for TensorBoard: event files in its folder."""

from collections.abc import Sequence
from pathlib import Path

from weighted_mtp.training.run_directory import Record, RunDirectory, values_of


class TensorBoardRun:
    """Writes to `tensorboard/` in the run's folder. Steps that are repeated after a crash replace the earlier ones."""

    def __init__(self, run: RunDirectory, records: Sequence[Record], first_step: int) -> None:
        """
        records  what `metrics.jsonl` holds at the start; a run that is new to TensorBoard gets them
        """
        from torch.utils.tensorboard import SummaryWriter

        folder = run.path / "tensorboard"
        is_new = not folder.exists()
        self._writer = SummaryWriter(folder, purge_step=None if is_new else first_step + 1)
        for record in records if is_new else ():
            self.log(record)

    def log(self, record: Record) -> None:
        for name, value in values_of(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def tag(self, key: str, value: str) -> None:
        """TensorBoard has curves only."""

    def artifact(self, file: Path) -> None:
        """TensorBoard has curves only."""

    def close(self, status: str) -> None:
        self._writer.close()
