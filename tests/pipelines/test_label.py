"""`wmtp label` as a user types it: a policy is sampled on training problems, and its programs are learned from."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from weighted_mtp.cli import app
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.data.tables import read_solutions

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "local"
TINY = ["model.micro.hidden_size=32", "model.micro.num_attention_heads=2", "model.micro.num_hidden_layers=2"]
SIZES = {"train": 12, "validation": 6, "test": 2}


def wmtp(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(storage: Path, pipeline: str, name: str, *more: str) -> Result:
    """Two steps of a tiny run."""
    config = CONFIGS / f"{pipeline.replace('-', '_')}_local.yaml"
    steps = [f"training.{option}=2" for option in ("max_steps", "save_every", "validate_every")]
    steps.append("optim.warmup_steps=1")
    places = [f"run.name={name}", f"run.root={storage}/runs", f"data.root={storage}/datasets", "tracking=none"]
    overrides = [part for option in (*places, *steps, *more) for part in ("--override", option)]
    return wmtp("train", pipeline, "--config", config, *overrides)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small micro benchmark, a tiny policy, and what it wrote for the problems of each split, executed."""
    storage = tmp_path_factory.mktemp("storage")
    write_micro(storage / "datasets", MicroConfig(n_train=12, n_validation=6, n_test=2, n_test_pairs=2))
    tokenizer = f"model.micro_tokenizer={storage}/datasets/micro/tokenizer"
    assert train(storage, "ref-tuning", "policy", tokenizer, *TINY).exit_code == 0
    for split in SIZES:
        result = wmtp(
            *("evaluate", "--benchmark", "micro", "--split", split, "--checkpoint", storage / "runs" / "policy"),
            *("--n", "4", "--temperature", "1", "--max-new-tokens", "8"),
            *("--output", storage / split, "--data-root", storage / "datasets"),
        )
        assert result.exit_code == 0, result.output
    return storage


def results(storage: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (storage / split / "results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("split", SIZES)
def test_any_split_can_be_sampled_and_executed(storage: Path, split: str) -> None:
    found = results(storage, split)
    assert [r["task_id"] for r in found] == [f"micro/{split}/{i}" for i in range(SIZES[split]) for _ in range(4)]
    assert len({r["completion"] for r in found}) > SIZES[split]
    assert {r["passed"] for r in found} == {False}


def test_critics_and_policies_learn_from_the_policys_own_programs(storage: Path) -> None:
    result = wmtp(
        *("label", storage / "train", storage / "validation", "--name", "own", "--storage", storage),
        *("--keep-solutions", "--keep-unfinished"),
    )
    assert result.exit_code == 0, result.output
    own = storage / "datasets" / "own"
    for split in ("train", "validation"):
        drawn = {s.code for s in read_solutions(own / split) if s.origin == "model"}
        assert drawn == {r["completion"] for r in results(storage, split)}
    assert (own / "stats.png").stat().st_size > 0
    assert wmtp("verify", "--check", "datasets", "--storage", storage).exit_code == 0
    reference = f"value.source={storage}/runs/policy"
    critic = train(storage, "critic", "critic", reference, "data.dataset=own", "data.pairs.length_balanced=false")
    assert critic.exit_code == 0, critic.output
    tokenizer = f"model.micro_tokenizer={storage}/datasets/micro/tokenizer"
    sampled = ("data.dataset=own", "data.sampling.n_samples=10")
    policy = train(storage, "baseline", "on-own", "model.source=micro", tokenizer, *TINY, *sampled)
    assert policy.exit_code == 0, policy.output


def test_programs_whose_values_cannot_be_compared_are_left_out_and_counted(storage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(storage / "train", folder)
    rows = results(storage, "train")
    rows[0].update(completion="def only_here(): pass", finished="stop", status="cannot_be_compared")
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = wmtp("label", folder, "--name", "left", "--storage", storage, "--keep-unfinished")
    assert result.exit_code == 0, result.output
    assert "program whose value cannot be compared" in result.output
    codes = {s.code for s in read_solutions(storage / "datasets" / "left" / "train")}
    assert codes
    assert "def only_here(): pass" not in codes


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["test", "--name", "x"], "micro/test, a split not to be learned from"),
        (["train", "--name", "micro"], "choose another"),
        (["train", "--name", "a/b"], "`name`: a/b must be the plain name of a folder"),
        (["datasets", "--name", "x"], "datasets holds no finished evaluation"),
    ],
)
def test_what_cannot_be_learned_from_is_one_line(storage: Path, arguments: list[str], expected: str) -> None:
    result = wmtp("label", storage / arguments[0], *arguments[1:], "--storage", storage)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert expected in line
    assert not (storage / "datasets" / "x").exists()
