"""Folders that a program left in a bad state."""

import os

import pytest

from weighted_mtp.sandbox.guest.emptying import empty_folder
from weighted_mtp.sandbox.scratch import folder_bytes, remove_folder


def test_every_entry_counts_a_block_however_small(tmp_path):
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert folder_bytes(tmp_path) == 100 * 4096


def test_contents_count_at_any_depth(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(10**6))
    assert folder_bytes(tmp_path) >= 10**6


def test_a_folder_too_deep_to_look_into_counts_as_too_much(tmp_path, monkeypatch):
    _nest(tmp_path, 70, "d", monkeypatch)
    assert folder_bytes(tmp_path) == float("inf")


def test_counting_ends_where_there_is_too_much(tmp_path):
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert folder_bytes(tmp_path, 10 * 4096) == 11 * 4096


def test_a_link_that_a_program_puts_in_a_folders_place_is_not_counted_through(swapped):
    assert folder_bytes(swapped / "scratch") < 10**5


def test_a_link_that_a_program_puts_in_a_folders_place_is_not_emptied_through(swapped):
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        empty_folder(swapped / "scratch")
    assert (swapped / "outside" / "file").exists()
    assert (swapped / "outside").stat().st_mode & 0o777 == 0o555


@pytest.fixture
def swapped(tmp_path, monkeypatch):
    """Folders `outside`, and `scratch` in which one becomes a link to it at the moment when somebody opens it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(bytes(10**6))
    (tmp_path / "outside").chmod(0o555)
    (tmp_path / "scratch" / "folder").mkdir(parents=True)
    really_open = os.open

    def swapping_open(path, *arguments, **options):
        if path == "folder":
            (tmp_path / "scratch" / "folder").rmdir()
            (tmp_path / "scratch" / "folder").symlink_to(tmp_path / "outside")
        return really_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", swapping_open)
    yield tmp_path
    monkeypatch.undo()
    (tmp_path / "outside").chmod(0o755)


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
