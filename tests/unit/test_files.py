"""What a manifest says of a folder's files, and what is found out later."""

from pathlib import Path

import pytest

from weighted_mtp.errors import UserError
from weighted_mtp.files import check_files, describe_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a").write_text("abc")
    (tmp_path / "b").write_bytes(b"")
    return tmp_path


def test_files_are_described_by_relative_name_size_and_digest(folder: Path) -> None:
    assert describe_files(folder, leave_out=frozenset({"b"})) == {
        "train/a": {"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "bytes": 3}
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "is missing"), ("ab", "has 2 bytes instead of 3"), ("abd", "another SHA-256")],
)
def test_a_changed_file_is_found(folder: Path, text: str | None, message: str) -> None:
    described = describe_files(folder)
    check_files(folder, described)
    file = folder / "train" / "a"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        check_files(folder, described)
