"""`wmtp data` as a user types it: steps, what is repeated, what fails alone, and the hub in place of a folder."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from matplotlib.image import imread
from typer.testing import CliRunner, Result

from weighted_mtp import sandbox
from weighted_mtp.cli import app
from weighted_mtp.data.index import read_index
from weighted_mtp.data.sources.micro import train_tokenizer
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.errors import UserError
from weighted_mtp.files import check_files
from weighted_mtp.hub import retry
from weighted_mtp.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
MBPP = [
    {
        "task_id": number,
        "text": f"Write a function number {number}.",
        "code": f"def f(x):\n    return x + {number}",
        "test_setup_code": "",
        "test_list": [f"assert f(1) == {number + 1}" if number != 12 else "assert f(1) == 0"],
        "challenge_test_list": [],
    }
    for number in (2, 11, 12, 13, 601, 602)
]
GSM8K = [
    {"question": f"What is {n} and {n}?", "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}"}
    for n in range(5)
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for name, rows in {"mbpp/mbpp": MBPP, "gsm8k/train": GSM8K, "gsm8k/test": GSM8K[4:]}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def data(storage: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", "--storage", str(storage), *map(str, arguments)])


def errors(result: Result) -> list[str]:
    """The lines that a failed command ends with."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return [line.removeprefix("error: ") for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_all_steps_leave_a_dataset_that_its_manifest_describes(source: Path, tmp_path: Path) -> None:
    result = data(tmp_path, "--datasets", "mbpp", "--steps", "all", "--source", source, "--small-problems", "1")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "datasets" / "mbpp"
    manifest = read_manifest(folder) or {}
    assert manifest["splits"]["test"] == {"problems": 3, "correct": 3, "incorrect": 0}
    assert {"stats.json", "stats.png", "tests.json", "train/index.parquet"} < manifest["files"].keys()
    check_files(folder, manifest["files"])
    assert read_index(folder / "train").unit == "characters"
    assert imread(folder / "stats.png").shape[2] == 4
    assert len(read_problems(tmp_path / "datasets" / "mbpp-small" / "test")) == 1
    assert "6 rows in" in result.stdout


def test_solutions_of_the_evaluation_splits_are_executed_against_their_labels(source: Path, tmp_path: Path) -> None:
    result = data(tmp_path, "--datasets", "mbpp,gsm8k", "--steps", "process,tests", "--source", source)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "datasets" / "mbpp" / "tests.json").read_text())["splits"]
    assert found.keys() == {"prompt", "test"}
    assert (found["test"]["correct"], found["test"]["passed"]) == (3, 2)
    assert found["test"]["disagreements"] == ["mbpp/12/reference: failed: test 1: assert f(1) == 0: AssertionError"]
    found = json.loads((tmp_path / "datasets" / "gsm8k" / "tests.json").read_text())["splits"]
    assert (found["test"]["correct"], found["test"]["not_run"]) == (0, {"text, not Python 3": 1})


def test_no_more_solutions_are_executed_than_asked_for(source: Path, tmp_path: Path) -> None:
    steps = ("--datasets", "mbpp", "--steps", "process,tests", "--source", source, "--tests-per-split", 1)
    assert data(tmp_path, *steps).exit_code == 0
    found = json.loads((tmp_path / "datasets" / "mbpp" / "tests.json").read_text())["splits"]
    assert [split["correct"] + split["incorrect"] for split in found.values()] == [1, 1]


def test_a_machine_that_cannot_confine_programs_says_why(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(unsafe: bool) -> None:
        raise UserError("this kernel has no Landlock")

    monkeypatch.setattr(sandbox, "check_available", unavailable)
    result = data(tmp_path, "--datasets", "mbpp", "--steps", "process,tests", "--source", source)
    assert errors(result) == ["mbpp, tests: this kernel has no Landlock"]
    assert not (tmp_path / "datasets" / "mbpp" / "tests.json").exists()


def _state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()
    }


def test_the_same_command_again_changes_no_file_and_needs_no_source(source: Path, tmp_path: Path) -> None:
    steps = ("--datasets", "mbpp,gsm8k", "--steps", "all")
    assert data(tmp_path, *steps, "--source", source).exit_code == 0
    before = _state(tmp_path / "datasets")
    shutil.rmtree(source)
    result = data(tmp_path, *steps)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("up to date") >= 8
    assert _state(tmp_path / "datasets") == before


def test_several_datasets_are_compared_with_each_others_evaluation_splits(source: Path, tmp_path: Path) -> None:
    assert data(tmp_path, "--datasets", "gsm8k,mbpp", "--source", source, "--steps", "process").exit_code == 0
    found = {name: (read_manifest(tmp_path / "datasets" / name) or {})["contamination"] for name in ("mbpp", "gsm8k")}
    assert found["mbpp"]["checked"] == ["mbpp/prompt", "mbpp/test", "gsm8k/test"]
    assert found["gsm8k"]["checked"] == ["gsm8k/test", "mbpp/prompt", "mbpp/test"]
    assert [overlap["problem_id"] for overlap in found["gsm8k"]["overlaps"]] == ["gsm8k/train/4"]


def test_where_one_dataset_fails_the_others_go_on_and_the_exit_code_tells(source: Path, tmp_path: Path) -> None:
    (source / "gsm8k" / "train.jsonl").write_text('{"question": "Why?"}\n')
    result = data(tmp_path, "--datasets", "gsm8k,condefects,mbpp", "--source", source)
    failed = errors(result)
    assert len(failed) == 2
    assert failed[0].startswith("gsm8k, process: ")
    assert "train.jsonl line 1: no column 'answer'" in failed[0]
    assert failed[1].startswith("condefects, process: ")
    assert "python_pairs.jsonl" in failed[1]
    assert (tmp_path / "datasets" / "mbpp" / "stats.png").exists()


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("mbpp/train/problems.parquet", "process"),
        ("mbpp/train/index.parquet", "metadata"),
        ("mbpp/stats.json", "stats"),
        ("mbpp-small/test/index.parquet", "small"),
    ],
)
def test_a_file_that_was_deleted_or_cut_is_made_again(source: Path, tmp_path: Path, name: str, steps: str) -> None:
    whole = ("--datasets", "mbpp", "--source", source, "--steps", "process,metadata,stats,small")
    assert data(tmp_path, *whole).exit_code == 0
    file = tmp_path / "datasets" / name
    contents = file.read_bytes()
    for damage in (file.unlink, lambda: file.write_bytes(contents[:50])):
        damage()
        assert data(tmp_path, "--datasets", "mbpp", "--source", source, "--steps", steps).exit_code == 0
        assert file.read_bytes() == contents


@pytest.mark.parametrize("step", ["metadata", "small", "stats", "tests"])
def test_a_step_on_what_is_not_processed_says_what_to_run(tmp_path: Path, step: str) -> None:
    (line,) = errors(data(tmp_path, "--datasets", "mbpp", "--steps", step))
    assert "datasets/mbpp is not prepared: make it with `uv run wmtp data --datasets mbpp`" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--datasets", "mbbp"], "--datasets mbbp: mbbp is not one of micro, humaneval, mbpp"),
        (["--datasets", "mbpp", "--steps", "proces"], "--steps proces: proces is not one of process, eval, metadata"),
        (["--datasets", "mbpp", "--languages", "perl"], "--languages perl: perl is not one of"),
        (["--datasets", "mbpp", "--source", "/nowhere"], "mbpp, process: --source /nowhere: does not exist: give a"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path: Path, arguments: list[str], expected: str) -> None:
    (line,) = errors(data(tmp_path, *arguments))
    assert line.startswith(expected)
    assert not (tmp_path / "datasets").exists()


def test_the_index_holds_lengths_in_a_tokenizers_tokens(source: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    train_tokenizer([row["code"] for row in MBPP], 400).save_pretrained(tokenizer)
    steps = ("--datasets", "mbpp", "--source", source, "--steps", "process,metadata")
    assert data(tmp_path, *steps).exit_code == 0
    assert data(tmp_path, *steps, "--tokenizer", tokenizer).exit_code == 0
    assert read_index(tmp_path / "datasets" / "mbpp" / "train").unit == f"tokens of {tokenizer}"


@pytest.fixture
def hub(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that has MBPP and GSM8K in the hub's own layout."""
    files = {
        "google-research-datasets/mbpp/full/test-00000-of-00001.parquet": MBPP[1:4],
        "google-research-datasets/mbpp/full/train-00000-of-00001.parquet": MBPP[4:],
        "google-research-datasets/mbpp/full/prompt-00000-of-00001.parquet": MBPP[:1],
        "google-research-datasets/mbpp/sanitized/test-00000-of-00001.parquet": [{"other": 1}],
        "openai/gsm8k/main/train-00000-of-00001.parquet": GSM8K,
        "openai/gsm8k/main/test-00000-of-00001.parquet": GSM8K[4:],
    }
    for name, rows in files.items():
        path = tmp_path / "hub" / "datasets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(retry, "WAITS", (0.0,))
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
        close_session()


def test_the_hub_and_a_folder_give_the_same_dataset(source: Path, tmp_path: Path, hub: HubServer) -> None:
    steps = ("--datasets", "mbpp,gsm8k", "--steps", "process")
    assert data(tmp_path / "a", *steps, "--source", source).exit_code == 0
    result = data(tmp_path / "b", *steps)
    assert result.exit_code == 0, result.output
    for split in ("mbpp/prompt", "mbpp/test", "mbpp/train", "gsm8k/test", "gsm8k/train"):
        one, other = (tmp_path / name / "datasets" / split for name in "ab")
        assert read_problems(one) == read_problems(other)
        assert read_solutions(one) == read_solutions(other)
    manifest = read_manifest(tmp_path / "b" / "datasets" / "gsm8k") or {}
    assert manifest["source"]["hub"] == "openai/gsm8k"
    assert len(manifest["source"]["revision"]) == 40
    assert not hub.seen("sanitized")
    before = len(hub.requests)
    assert data(tmp_path / "b", *steps).exit_code == 0
    assert len(hub.requests) == before


def test_evaluation_splits_alone_fetch_no_training_file(tmp_path: Path, hub: HubServer) -> None:
    assert data(tmp_path, "--datasets", "gsm8k", "--steps", "eval").exit_code == 0
    assert hub.seen("main/test-")
    assert not hub.seen("main/train-")
    assert len(read_problems(tmp_path / "datasets" / "gsm8k" / "test")) == 1


def test_what_the_hub_refuses_says_which_file_would_serve(tmp_path: Path, hub: HubServer) -> None:
    shutil.rmtree(tmp_path / "hub" / "datasets" / "openai")
    failed = errors(data(tmp_path, "--datasets", "mbpp,gsm8k,llm_pairs", "--steps", "process"))
    assert len(failed) == 2
    assert failed[0].startswith("gsm8k, ")
    assert failed[0].endswith("give --source DIR with test.jsonl, train.jsonl")
    assert failed[1] == "llm_pairs, process: llm_pairs is not on the hub: give --source DIR with apps.jsonl"
    assert (tmp_path / "datasets" / "mbpp" / "manifest.json").exists()


def evaluate(storage: Path, benchmark: str, samples: Path) -> Result:
    options = ["--benchmark", benchmark, "--samples", samples, "--data-root", storage / "datasets"]
    output = ["--output", storage / "evaluation"]
    return CliRunner().invoke(app, ["evaluate", *map(str, [*options, *output])])


def test_an_evaluation_fetches_a_benchmark_that_is_missing_without_its_training_split(
    tmp_path: Path, hub: HubServer
) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"task_id": "gsm8k/test/0", "completion": GSM8K[4]["answer"]}) + "\n")
    for _ in range(2):
        result = evaluate(tmp_path, "gsm8k", samples)
        assert result.exit_code == 0, result.output
        assert "pass@1" in result.stdout
    assert len(hub.seen("/resolve/.*main/test-")) == 1
    assert not hub.seen("main/train-")


@pytest.mark.parametrize("benchmark", ["gsm8k", "humaneval+"])
def test_an_evaluation_of_a_benchmark_that_cannot_be_had_says_which_command_makes_it(
    tmp_path: Path, hub: HubServer, benchmark: str
) -> None:
    shutil.rmtree(tmp_path / "hub" / "datasets" / "openai")
    (tmp_path / "samples.jsonl").write_text("{}\n")
    (line,) = errors(evaluate(tmp_path, benchmark, tmp_path / "samples.jsonl"))
    assert f"wmtp data --datasets {benchmark}" in line


def test_the_briefs_script_is_the_command(source: Path, tmp_path: Path) -> None:
    script = ROOT / "scripts" / "create_storage" / "setup_datasets.py"
    options = ["--datasets", "mbpp", "--steps", "process,small", "--source", source, "--storage", tmp_path]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "datasets" / "mbpp-small" / "manifest.json").exists()
