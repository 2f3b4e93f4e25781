"""Preparation by several workers, and over kills: always the bytes that one worker makes in one go."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weighted_mtp.data.preparation import prepare as prepare_module
from weighted_mtp.data.preparation import shards as shards_module
from weighted_mtp.data.preparation.config import Options
from weighted_mtp.data.preparation.prepare import prepare
from weighted_mtp.data.preparation.shards import shards_of
from weighted_mtp.errors import UserError


def _row(number: int, program: str) -> dict[str, Any]:
    return {
        "name": f"p{number}",
        "description": f"Print the sum of {number} numbers.",
        "source": 2,
        "difficulty": number,
        "public_tests": {"input": ["1\n"], "output": ["2\n"]},
        "solutions": {"language": [3, 2, 3], "solution": [program, "int main(){}", f"print({number})"]},
        "incorrect_solutions": {"language": [3], "solution": [f"print(-{number})"]},
    }


PROGRAM = "\n".join(f"x{i} = input().split()[{i}] + '{i}'" for i in range(20))
ROWS = [_row(number, PROGRAM if number == 4 else f"y = {number}") for number in range(11)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three shards of row groups of two problems; the test split's program is that of training problem 4."""
    folder = tmp_path / "source" / "data"
    folder.mkdir(parents=True)
    for shard, rows in enumerate((ROWS[:4], ROWS[4:5], ROWS[5:])):
        path = folder / f"train-{shard:05}-of-00003.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    pq.write_table(pa.Table.from_pylist([_row(90, PROGRAM), _row(91, "z = 1")]), folder / "test-00000-of-00001.parquet")
    return folder.parent


@pytest.fixture(autouse=True)
def any_size_is_worth_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "_BYTES_A_WORKER", 1)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_pieces_are_row_groups_whose_bytes_add_up_to_the_files(source: Path, tmp_path: Path) -> None:
    files = sorted((source / "data").glob("train-*"))
    shards = shards_of([("train", file) for file in files], tmp_path)
    assert [(shard.path, shard.group) for shard in shards] == [
        *((files[0], 0), (files[0], 1), (files[1], 0)),
        *((files[2], 0), (files[2], 1), (files[2], 2)),
    ]
    assert sum(shard.bytes for shard in shards) == sum(file.stat().st_size for file in files)


def test_the_number_of_workers_changes_no_byte(source: Path, tmp_path: Path) -> None:
    for workers in (1, 2, 4):
        manifest, _ = prepare("codecontests", tmp_path / str(workers), source, workers=workers)
    one, two, four = (_bytes(tmp_path / str(workers)) for workers in (1, 2, 4))
    assert one == two == four
    assert manifest["rows_in"] == 13
    assert manifest["splits"]["train"] == {"problems": 10, "correct": 20, "incorrect": 10}
    assert [overlap["problem_id"] for overlap in manifest["contamination"]["overlaps"]] == [
        "codecontests/codeforces/p4"
    ]


@pytest.mark.parametrize("most", [1, 5])
def test_the_first_problems_are_the_first_of_the_files_whoever_reads_them(
    source: Path, tmp_path: Path, most: int
) -> None:
    options = Options(max_problems=most)
    for workers in (1, 2):
        manifest, _ = prepare("codecontests", tmp_path / str(workers), source, options, workers=workers)
    assert _bytes(tmp_path / "1") == _bytes(tmp_path / "2")
    kept = [row for row in ROWS if row["name"] != "p4"][:most]
    read = int(kept[-1]["name"][1:]) + 1
    assert manifest["splits"]["train"]["problems"] == most
    assert manifest["rows_in"] == read + min(most, 2)


def test_a_workers_error_is_the_commands_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    broken = pa.Table.from_pylist([{**ROWS[0], "name": "q"}, {**ROWS[1], "name": None}])
    pq.write_table(broken, source / "data" / "train-00001-of-00003.parquet")
    with pytest.raises(UserError, match=r"^[^\n]*train-00001-of-00003.parquet row 2: column 'name' is null[^\n]*$"):
        prepare("codecontests", tmp_path, source, workers=2)
    assert not list((tmp_path / "datasets").iterdir())


_KILLED = """
import os, signal, sys
from pathlib import Path
from weighted_mtp.data.preparation import prepare, shards

prepare._BYTES_A_WORKER = 1
source, storage, workers, after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
seen = 0

class Dying(prepare.SplitMerger):
    def add(self, part, counts):
        global seen
        super().add(part, counts)
        seen += 1
        if seen == after:
            os.kill(os.getpid(), signal.SIGKILL)

prepare.SplitMerger = Dying
prepare.prepare("codecontests", storage, source, workers=workers)
"""


def test_killed_and_given_again_it_goes_on_to_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, storage = tmp_path / "killed.py", tmp_path / "storage"
    killed.write_text(_KILLED)
    done = subprocess.run([sys.executable, killed, source, storage, "2", "3"], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    parts = storage / "datasets" / ".codecontests.parts"
    finished = {str(account.parent.relative_to(parts)) for account in parts.rglob("account.json")}
    assert len(finished) >= 3
    assert not (storage / "datasets" / "codecontests").exists()
    read = []
    entries = shards_module._entries
    monkeypatch.setattr(shards_module, "_entries", lambda shard, *rest: read.append(shard) or entries(shard, *rest))
    prepare("codecontests", storage, source, workers=1)
    assert {str(shard.part.relative_to(parts)) for shard in read}.isdisjoint(finished)
    assert len(read) == 7 - len(finished)
    prepare("codecontests", tmp_path / "whole", source, workers=1)
    assert _bytes(storage) == _bytes(tmp_path / "whole")


def test_parts_of_another_preparation_are_not_taken_up(source: Path, tmp_path: Path) -> None:
    parts = tmp_path / "datasets" / ".codecontests.parts"
    (parts / "evaluation" / "000000").mkdir(parents=True)
    (parts / "evaluation" / "000000" / "account.json").write_text("[]")
    (parts / "job.json").write_text(json.dumps({"dataset": "codecontests", "options": {}}))
    manifest, _ = prepare("codecontests", tmp_path, source, workers=1)
    assert manifest["splits"]["test"]["problems"] == 2
    assert [folder.name for folder in (tmp_path / "datasets").iterdir()] == ["codecontests"]
