"""A split's token files: what they hold, who makes them, and what becomes of them when something happens."""

import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from splits import write_split
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from weighted_mtp.data import tokens as tokens_module
from weighted_mtp.data.batches import collate
from weighted_mtp.data.prompts import encode_solutions
from weighted_mtp.data.schema import Records, Span
from weighted_mtp.data.tokens import FOLDER, SplitTokens, split_tokens
from weighted_mtp.errors import UserError


@pytest.fixture
def split(tmp_path: Path, small_micro: dict[str, Records]) -> Path:
    write_split(tmp_path / "micro" / "train", *small_micro["train"])
    return tmp_path / "micro" / "train"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tells how many programs each call tokenizes, of which there are several."""
    told: list[int] = []
    encode = tokens_module.encode_responses

    def telling(
        tokenizer: PreTrainedTokenizerBase, codes: Sequence[str], spans: Sequence[Sequence[Span]]
    ) -> list[tuple[list[int], bytes]]:
        told.append(len(codes))
        return encode(tokenizer, codes, spans)

    monkeypatch.setattr(tokens_module, "encode_responses", telling)
    monkeypatch.setattr(tokens_module, "_PROGRAMS", 50)
    monkeypatch.setattr(tokens_module, "_BETWEEN_SAVES", 100)
    return told


def made_folder(split: Path) -> Path:
    (folder,) = (path for path in (split.parents[1] / FOLDER / "micro" / "train").iterdir() if path.is_dir())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_row_is_its_example(
    split: Path, small_micro: dict[str, Records], tokenizer: PreTrainedTokenizerBase
) -> None:
    problems, solutions = small_micro["train"]
    found = split_tokens(split, tokenizer, "alpaca")
    expected = list(encode_solutions(tokenizer, "alpaca", problems, solutions))
    assert list(found.store.sample_ids) == [name for name, _ in expected]
    assert found.is_correct.tolist() == [solution.is_correct for solution in solutions]
    for row, (_, example) in enumerate(expected):
        batch = collate(found.store, np.array([row]))
        assert batch.input_ids[0].tolist() == example.input_ids
        assert batch.response_mask[0].tolist().index(True) == found.store.response_start[row] == example.response_start
        assert bytes(batch.marks[0].tolist()) == example.marks
    assert any(any(example.marks) for _, example in expected)


def test_tokens_are_made_once(split: Path, micro_tokenizer: PreTrainedTokenizerFast, encoded: list[int]) -> None:
    first = split_tokens(split, micro_tokenizer, "plain")
    assert sum(encoded) == len(first.store)
    again = split_tokens(split, micro_tokenizer, "plain")
    assert sum(encoded) == len(first.store) == len(again.store)
    assert isinstance(again.store.ids, np.memmap)


def test_another_tokenizer_template_or_split_is_tokenized_anew(
    split: Path, small_micro: dict[str, Records], micro_tokenizer: PreTrainedTokenizerFast, encoded: list[int]
) -> None:
    n = len(split_tokens(split, micro_tokenizer, "plain").store)
    split_tokens(split, micro_tokenizer, "alpaca")
    assert sum(encoded) == 2 * n
    other = PreTrainedTokenizerFast(tokenizer_object=micro_tokenizer.backend_tokenizer, eos_token="<|pad|>")
    found = split_tokens(split, other, "plain")
    assert sum(encoded) == 3 * n
    ids = found.store.ids[found.store.response_at + found.store.lengths - found.store.response_start - 1]
    assert set(ids.tolist()) == {other.eos_token_id}
    problems, solutions = small_micro["train"]
    write_split(split, problems, [replace(solutions[0], code="# changed\n"), *solutions[1:]])
    changed = split_tokens(split, micro_tokenizer, "plain")
    assert sum(encoded) == 4 * n
    assert changed.store.lengths[0] != split_tokens(split, other, "plain").store.lengths[1]


@pytest.mark.parametrize("name", ["ids", "response_lengths", "manifest.json"])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_damaged_files_are_made_anew_and_it_is_said(
    split: Path, micro_tokenizer: PreTrainedTokenizerFast, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    split_tokens(split, micro_tokenizer, "plain")
    folder = made_folder(split)
    before = contents(folder)
    file = folder / name
    data = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:-3] if how == "cut" else data[:9] + b"\xff" + data[10:])
    capsys.readouterr()
    split_tokens(split, micro_tokenizer, "plain")
    assert contents(folder) == before
    is_silent = (name, how) == ("manifest.json", "gone")  # then there is nothing that claims to be whole
    assert ("is damaged: tokenizing again" in capsys.readouterr().err) is not is_silent


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_kill_loses_what_was_not_saved_and_the_bytes_are_the_same(
    split: Path,
    micro_tokenizer: PreTrainedTokenizerFast,
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    split_tokens(split, micro_tokenizer, "plain")
    whole, total = contents(made_folder(split)), sum(encoded)
    shutil.rmtree(split.parents[1] / FOLDER)
    encoded.clear()
    add = tokens_module._Writer.add

    def dying(writer: tokens_module._Writer, solutions: int = 0, **columns: object) -> None:
        add(writer, solutions, **columns)  # type: ignore[arg-type]
        if len(encoded) == after:
            for file in writer._files.values():
                file.flush()  # more may be on disk than what was saved
            os._exit(9)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(tokens_module._Writer, "add", dying)
        split_tokens(split, micro_tokenizer, "plain")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    split_tokens(split, micro_tokenizer, "plain")
    assert contents(made_folder(split)) == whole
    assert sum(encoded) == total - after // 2 * 100


def test_several_that_start_at_once_tokenize_once(
    split: Path, micro_tokenizer: PreTrainedTokenizerFast, encoded: list[int]
) -> None:
    found: list[SplitTokens] = []
    ask = threading.Barrier(4)

    def start() -> None:
        ask.wait()
        found.append(split_tokens(split, micro_tokenizer, "plain"))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(encoded) == len(found[0].store)
    assert len({one.store.ids.tobytes() for one in found}) == 1
    assert len(found) == 4


def test_a_solution_without_its_problem_is_named(
    split: Path, small_micro: dict[str, Records], micro_tokenizer: PreTrainedTokenizerFast
) -> None:
    problems, solutions = small_micro["train"]
    write_split(split, problems[1:], solutions)
    name = solutions[0].solution_id
    with pytest.raises(UserError, match=rf"solutions.parquet: solution '{name}' is of problem [^\n]*, which is not in"):
        split_tokens(split, micro_tokenizer, "plain")
    assert not any(path.is_dir() for path in (split.parents[1] / FOLDER / "micro" / "train").iterdir())


@pytest.mark.parametrize("small_disk", [200], indirect=True)
def test_a_disk_that_fills_up_is_one_line_and_leaves_no_folder(
    small_disk: Path, small_micro: dict[str, Records], micro_tokenizer: PreTrainedTokenizerFast
) -> None:
    problems, solutions = small_micro["train"]
    write_split(small_disk / "micro" / "train", problems, solutions)
    with pytest.raises(UserError, match=r"^cannot write [^\n]*plain-[0-9a-f]{16}: No space left on device; make room"):
        split_tokens(small_disk / "micro" / "train", micro_tokenizer, "plain")
    assert not any(path.is_dir() for path in (small_disk / FOLDER / "micro" / "train").iterdir())
