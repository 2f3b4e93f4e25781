"""Frozen models are run once per text; what is kept of them is found again to the bit, or not at all."""

import os
import signal
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from method_storage import WHOLE_EPOCH, Storage, new_storage, records
from observations import checksum_of
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.errors import UserError
from weighted_mtp.models.checkpoint import newest_model
from weighted_mtp.pipelines import critic as critics
from weighted_mtp.pipelines import frozen_cache
from weighted_mtp.pipelines.critic import critic_of_run, load_critics
from weighted_mtp.pipelines.frozen_cache import FrozenCacheConfig, kept
from weighted_mtp.runtime.config import RuntimeConfig

ROWS = [[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12], [1, 2, 3]]
CPU = RuntimeConfig(device="cpu", precision="fp32")


def batch(rows: Sequence[Sequence[int]], start: int = 1) -> Batch:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    real = torch.tensor([[column < len(row) for column in range(width)] for row in rows])
    response = real & (torch.arange(width) >= start)
    return Batch(ids, real, response, torch.arange(len(rows)), torch.zeros_like(ids, dtype=torch.uint8))


class Frozen:
    """Values that depend on what a row is computed with, as rounding does; counts how often it is run."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, batch: Batch) -> Tensor:
        self.runs += 1
        return batch.input_ids.cumsum(1) / (7 + 1e-3 * len(batch.input_ids))


def real(values: Tensor, of: Batch, row: int) -> Tensor:
    return values[row, : of.spans[row].end]


@pytest.fixture
def config(tmp_path: Path) -> FrozenCacheConfig:
    return FrozenCacheConfig(file=tmp_path / "cache" / "outputs.sqlite")


def test_rows_are_found_in_other_company_with_the_bits_of_their_first(config: FrozenCacheConfig) -> None:
    frozen, first = Frozen(), batch(ROWS[:2])
    cached = kept(frozen, config, "a")
    values = cached(first)
    assert torch.equal(values, frozen(first))
    others = batch(ROWS[2:])
    cached(others)
    mixed = batch([ROWS[3], ROWS[0], ROWS[2], ROWS[1]])
    again = kept(frozen, config, "a")(mixed)
    assert frozen.runs == 3
    assert torch.equal(real(again, mixed, 1), real(values, first, 0))
    assert torch.equal(real(again, mixed, 3), real(values, first, 1))


@pytest.mark.parametrize(
    ("rows", "start", "made_by"),
    [([[1, 2, 3, 4, 6]], 1, "a"), ([[1, 2, 3, 4]], 1, "a"), ([ROWS[0]], 2, "a"), ([ROWS[0]], 1, "b")],
    ids=["another token", "a shorter text", "another border", "another model"],
)
def test_what_is_another_question_is_not_found(
    config: FrozenCacheConfig, rows: list[list[int]], start: int, made_by: str
) -> None:
    frozen = Frozen()
    kept(frozen, config, "a")(batch(ROWS[:1]))
    asked = batch(rows, start)
    found = kept(frozen, config, made_by)(asked)
    assert frozen.runs == 2
    assert torch.equal(real(found, asked, 0), real(frozen(asked), asked, 0))


def test_a_damaged_value_is_computed_again_and_a_damaged_file_started_over(
    config: FrozenCacheConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen, one = Frozen(), batch(ROWS[:1])
    values = kept(frozen, config, "a")(one)
    content = config.file.read_bytes()
    stored = values.numpy().astype("<f4").tobytes()
    assert content.count(stored) == 1
    config.file.write_bytes(content.replace(stored, stored[:-1] + b"\x7f"))
    assert torch.equal(kept(frozen, config, "a")(one), values)
    assert frozen.runs == 2
    config.file.write_bytes(b"no database at all" * 300)
    assert torch.equal(kept(frozen, config, "a")(one), values)
    assert frozen.runs == 3
    assert "started over" in capsys.readouterr().err
    kept(frozen, config, "a")(one)
    assert frozen.runs == 3


def test_the_file_keeps_its_bound_and_the_newest_values(
    config: FrozenCacheConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    bound = 200_000
    small = config.model_copy(update={"max_gb": bound / 1e9})
    frozen = Frozen()
    cached = kept(frozen, small, "a")
    long = [batch([list(range(first, first + 500))]) for first in range(400)]
    for one in long:
        cached(one)
    assert config.file.stat().st_size <= bound
    assert "raise frozen_cache.max_gb" in " ".join(capsys.readouterr().err.split())
    runs = frozen.runs
    cached(long[-1])
    assert frozen.runs == runs
    cached(long[0])
    assert frozen.runs == runs + 1


def test_a_full_disk_costs_the_cache_and_not_the_run(
    config: FrozenCacheConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = Frozen()
    cached = kept(frozen, config, "a")
    long = batch([list(range(n, n + 900)) for n in range(9)])

    @contextmanager
    def full(_store: object) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(config.file, isolation_level=None)) as database:
            database.execute("PRAGMA max_page_count = 1")
            yield database

    monkeypatch.setattr(frozen_cache._Store, "_open", full)
    for _ in range(2):
        assert torch.equal(cached(long), frozen(long))
    assert capsys.readouterr().err.count("computing without") == 1


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"frozen_cache\.file=.*name another file"):
        kept(Frozen(), FrozenCacheConfig(file=tmp_path / "file" / "below.sqlite"), "a")


def _write_for_ever(config: FrozenCacheConfig) -> None:
    cached = kept(Frozen(), config, "a")
    number = 0
    while True:
        cached(batch([list(range(number, number + 400))]))
        number += 1


def test_a_run_killed_while_it_writes_leaves_only_true_values(config: FrozenCacheConfig) -> None:
    process = get_context("fork").Process(target=_write_for_ever, args=(config,))
    process.start()
    while not config.file.exists() or config.file.stat().st_size < 300_000:
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    frozen = Frozen()
    cached = kept(frozen, config, "a")
    for number in range(100):
        one = batch([list(range(number, number + 400))])
        assert torch.equal(cached(one), one.input_ids.cumsum(1) / 7.001)
    assert frozen.runs == 0


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = new_storage(tmp_path_factory.mktemp("storage"))
    storage.train("baseline", "policy", "model.source=micro")
    source = f"value.source={storage.run('reference')}"
    for seed in (0, 1):
        storage.train("critic", f"implicit-{seed}", "critic.objective=implicit", source, f"run.seed={seed}")
    return storage


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows frozen models were evaluated on, per pass."""
    counted: list[int] = []
    evaluating = critics._evaluating

    def counting(*given: object) -> object:
        values = evaluating(*given)  # type: ignore[arg-type]
        return lambda batch: counted.append(len(batch.input_ids)) or values(batch)

    monkeypatch.setattr(critics, "_evaluating", counting)
    return counted


EPOCHS = [WHOLE_EPOCH, "training.max_steps=2", "optim.warmup_steps=1", "runtime.precision=fp32"]


@pytest.mark.parametrize("pipeline", ["verifiable", "rho1"])
def test_a_run_of_several_epochs_computes_each_program_once_and_repeats_to_the_bit(
    storage: Storage, tmp_path: Path, runs: list[int], pipeline: str
) -> None:
    def train(name: str, *more: str) -> Path:
        start = (
            storage.from_critic("outcome") if pipeline == "verifiable" else [f"reference={storage.run('reference')}"]
        )
        return storage.train(pipeline, name, *storage.from_policy(), *start, *EPOCHS, *more)

    plain = train(f"{pipeline}-plain")
    each, rows = len(runs), sum(runs)
    runs.clear()
    cache = f"frozen_cache.file={tmp_path}/outputs.sqlite"
    cached = train(f"{pipeline}-cached", cache)
    assert sum(runs) == rows / 2  # two epochs, and a validation before and after
    assert len(runs) < each
    runs.clear()
    again = train(f"{pipeline}-again", cache)
    assert runs == []
    assert checksum_of(newest_model(again)) == checksum_of(newest_model(cached))
    assert records(again) == records(cached)
    first = [run_records[:2] for run_records in (records(plain), records(cached))]
    assert first[0] == first[1]  # the first validation and the first epoch are computed in either
    assert records(cached)[-1]["loss"] == pytest.approx(records(plain)[-1]["loss"], rel=1e-5)


def test_implicit_critics_of_one_reference_evaluate_it_once(storage: Storage, runs: list[int]) -> None:
    names = [storage.run(f"implicit-{seed}") for seed in (0, 1)]
    both = load_critics(names, CPU)
    asked = batch(ROWS)
    mean = both.values(asked)
    assert runs == [4, 4, 4]  # the two that moved and their reference
    alone = [critic_of_run(name, CPU).values(asked) for name in names]
    assert torch.equal(mean, torch.stack(alone).mean(0))
    reverse = batch(ROWS[::-1])
    assert torch.equal(both.values(reverse), load_critics(names, CPU).values(reverse))
