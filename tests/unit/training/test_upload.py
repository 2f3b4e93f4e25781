"""Checkpoints copied elsewhere: whole copies, no loss where a file system fails, nothing that the run waits for."""

import threading
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_directory
from weighted_mtp.manifest import write_manifest
from weighted_mtp.training.upload import Uploads


def checkpoint(run: Path, step: int) -> Path:
    """A run's folder with a checkpoint, as far as copying sees it."""
    for name in ("config.yaml", "run.json", "metrics.jsonl"):
        run.mkdir(exist_ok=True)
        (run / name).write_text(name)
    with atomic_directory(run / "checkpoints" / f"step-{step:08d}") as folder:
        for file in ("model/model.safetensors", "state/.metadata"):
            (folder / file).parent.mkdir()
            (folder / file).write_text(f"{file} of step {step}")
        write_manifest(folder, {"step": step})
    return run / "checkpoints" / f"step-{step:08d}"


def files(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_a_copy_on_another_disk_is_the_run(tmp_path: Path) -> None:
    checkpoint(tmp_path / "run", 1)
    with Uploads(tmp_path / "run", f"file://{tmp_path}/there/run") as uploads:
        uploads.start()
        checkpoint(tmp_path / "run", 2)
    assert files(tmp_path / "there" / "run") == files(tmp_path / "run")


def test_a_copy_in_an_object_store_is_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path / "run", 1)
    for _ in range(2):
        with Uploads(tmp_path / "run", "memory://bucket/once/run") as uploads:
            uploads.start()
        monkeypatch.setattr(MemoryFileSystem, "put_file", None)
    there = MemoryFileSystem().find("/bucket/once/run")
    assert {name.removeprefix("/bucket/once/run/") for name in there} == files(tmp_path / "run").keys()


def test_a_failure_is_told_of_and_mended_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tmp_path / "run", 1)
    works = LocalFileSystem.put_file

    def fails(*_arguments: object, **_options: object) -> None:
        raise ConnectionError("no route to the bucket")

    with Uploads(tmp_path / "run", f"file://{tmp_path}/there/run") as uploads:
        monkeypatch.setattr(LocalFileSystem, "put_file", fails)
        uploads.start()
        uploads._thread.join()
        assert "UPLOAD FAILED" in capsys.readouterr().err
        monkeypatch.setattr(LocalFileSystem, "put_file", works)
    assert files(tmp_path / "there" / "run") == files(tmp_path / "run")


def test_a_failure_to_the_end_loses_nothing_and_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path / "run", 1)
    before = files(tmp_path / "run")
    (tmp_path / "there").write_text("a file where a folder is needed")
    with Uploads(tmp_path / "run", f"file://{tmp_path}/there/run") as uploads:
        uploads.start()
    assert capsys.readouterr().err.count("UPLOAD FAILED") == 2
    assert files(tmp_path / "run") == before


def test_the_run_does_not_wait_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path / "run", 1)
    go_on, works = threading.Event(), LocalFileSystem.put_file

    def waits(*arguments: object, **options: object) -> None:
        go_on.wait()
        works(*arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "put_file", waits)
    with Uploads(tmp_path / "run", f"file://{tmp_path}/there/run") as uploads:
        uploads.start()  # would never return
        checkpoint(tmp_path / "run", 2)
        uploads.start()
        assert not (tmp_path / "there" / "run" / "config.yaml").exists()
        go_on.set()
    assert files(tmp_path / "there" / "run") == files(tmp_path / "run")


def test_a_checkpoint_half_deleted_is_no_whole_copy(tmp_path: Path) -> None:
    (checkpoint(tmp_path / "run", 1) / "model" / "model.safetensors").unlink()
    with Uploads(tmp_path / "run", f"file://{tmp_path}/there/run") as uploads:
        uploads.start()
    assert not list((tmp_path / "there").rglob("manifest.json"))


@pytest.mark.parametrize("target", ["nosuch://bucket/run", "adl://bucket/run"])
def test_a_target_that_nothing_here_writes_to_is_one_line(tmp_path: Path, target: str) -> None:
    with pytest.raises(UserError, match=f"training.upload_to={target}"):
        Uploads(tmp_path, target)
