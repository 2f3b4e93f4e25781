"""Folders that a program left in a bad state."""

import os

import pytest

from weighted_mtp.evaluation.guest.emptying import empty_folder
from weighted_mtp.evaluation.scratch import folder_bytes, remove_folder


def test_every_entry_counts_a_block_however_small(tmp_path):
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert folder_bytes(tmp_path) == 100 * 4096


def test_contents_count_at_any_depth(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(10**6))
    assert folder_bytes(tmp_path) >= 10**6


def test_a_folder_too_deep_to_look_into_counts_as_too_much(tmp_path, monkeypatch):
    _nest(tmp_path, 30, "d" * 200, monkeypatch)
    assert folder_bytes(tmp_path) == float("inf")


def test_a_folder_too_deep_for_a_path_is_emptied(tmp_path, monkeypatch):
    _nest(tmp_path, 30, "d" * 200, monkeypatch)
    empty_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_links_are_removed_and_their_targets_kept(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "kept")
    remove_folder(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()


def test_taken_permissions_are_put_right(tmp_path):
    (tmp_path / "shut" / "inner").mkdir(parents=True)
    (tmp_path / "shut" / "inner").chmod(0)
    (tmp_path / "shut").chmod(0)
    empty_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def _nest(folder, depth, name, monkeypatch):
    """`depth` folders inside each other, made as a program would: by going into each."""
    monkeypatch.chdir(folder)
    for _ in range(depth):
        os.mkdir(name)  # noqa: PTH102 - the path of the deepest is too long to be spelled out
        os.chdir(name)
    monkeypatch.chdir(folder)


@pytest.fixture(autouse=True)
def emptied(tmp_path):
    yield
    empty_folder(tmp_path)
