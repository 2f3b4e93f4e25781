"""The examples, run as a user runs them, on tiny models; and the public function that they are about."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import weighted_mtp
from weighted_mtp.cli import app
from weighted_mtp.data.batches import Batch
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.errors import UserError
from weighted_mtp.models.checkpoint import newest_model
from weighted_mtp.value_weighting.plugins import weighting_named
from weighted_mtp.value_weighting.td import TDConfig

ROOT = Path(__file__).resolve().parents[2]
SIZES = "model.micro={hidden_size: 32, num_attention_heads: 2, num_hidden_layers: 2, intermediate_size: 48}"


def wmtp(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference and a critic of two steps each on a small micro benchmark."""
    folder = tmp_path_factory.mktemp("work")
    write_micro(folder / "datasets", MicroConfig(n_train=40, n_validation=6, n_test=4, n_test_pairs=4))

    def train(kind: str, config: str, *more: str) -> None:
        options = [f"run.root={folder}/runs", f"data.root={folder}/datasets", "tracking=none", *more]
        options += ["training.max_steps=2", "optim.warmup_steps=1", "training.validation_batches=1"]
        wmtp("train", kind, "--config", config, *(part for option in options for part in ("--override", option)))

    tokenizer = f"model.micro_tokenizer={folder}/datasets/micro/tokenizer"
    train("ref-tuning", "local/ref_tuning_local", "run.name=reference", SIZES, tokenizer)
    train("critic", "local/critic_local", "run.name=critic", f"value.source={folder}/runs/reference")
    return folder


def example(work: Path, name: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *map(str, arguments)],
        cwd=work,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def changed(model: Path, trained: Path) -> bool:
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (model, trained))
    return any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


@pytest.fixture(scope="module")
def model(work: Path) -> Path:
    return newest_model(work / "runs" / "reference")


@pytest.fixture(scope="module")
def table(work: Path) -> Path:
    file = work / "weights.parquet"
    said = wmtp("weights", "--critic", work / "runs" / "critic", "--format", "parquet", "--output", file)
    assert str(file) in said
    return file


def test_the_table_has_ids_tokens_weights_and_delta_of_every_program(table: Path) -> None:
    rows = pq.read_table(table).to_pylist()
    assert {row["is_correct"] for row in rows} == {True, False}
    for row in rows:
        start, n = row["response_start"], len(row["input_ids"])
        assert [len(row[name]) for name in ("tokens", "weights", "delta")] == [n] * 3
        assert row["weights"][:start] == [1.0] * start
        assert row["delta"][:start] == [0.0] * start
        assert all(0.1 - 1e-6 <= weight <= 3.0 + 1e-6 for weight in row["weights"][start:])
        assert "def " in "".join(row["tokens"])


def test_token_weights_are_those_of_the_table(work: Path, table: Path) -> None:
    rows = [row for row in pq.read_table(table).to_pylist() if row["is_correct"]][:3]
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    place = torch.arange(longest)
    real = torch.stack([place < len(row["input_ids"]) for row in rows])
    response = real & torch.stack([place >= row["response_start"] for row in rows])
    critic = weighted_mtp.load_critic(work / "runs" / "critic")
    found = weighted_mtp.token_weights(critic, ids, real, response)
    expected = torch.cat([torch.tensor(row["delta"][row["response_start"] :]) for row in rows])
    assert torch.allclose(found.delta[response], expected, atol=1e-5)
    assert (found.weights[~response] == 1).all()
    again = weighted_mtp.token_weights(work / "runs" / "critic", ids, real, response, state=found.state)
    assert int(again.state["steps"]) == 2
    narrow = weighted_mtp.token_weights(critic, ids, real, response, options=TDConfig(w_min=0.99, w_max=1.01))
    assert (narrow.weights - 1).abs().max() <= 0.0101


@pytest.mark.parametrize(
    ("attention", "response", "expected"),
    [
        ([[1, 1]], [[0, 1, 1]], "must all be"),
        ([[0, 1, 1]], [[0, 0, 1]], "padded on the left"),
        ([[1, 1, 0]], [[0, 1, 1]], "within attention_mask"),
        ([[1, 1, 1]], [[1, 0, 1]], "several responses"),
    ],
)
def test_masks_that_cannot_be_are_one_line(
    attention: list[list[int]], response: list[list[int]], expected: str
) -> None:
    masks = torch.tensor(attention), torch.tensor(response)
    with pytest.raises(UserError, match=expected):
        weighted_mtp.token_weights("nowhere", torch.ones(1, 3, dtype=torch.long), *masks)


def test_a_flat_loop_learns_with_a_critics_weights(work: Path, model: Path) -> None:
    pairs = [{"prompt": "Add one.\n", "completion": f"def f(x):\n    return x + {n}\n"} for n in range(6)]
    (work / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    options = ("--model", model, "--critic", "runs/critic", "--data", "pairs.jsonl", "--steps", "2", "--output", "flat")
    said = example(work, "weighted_loop.py", *options, "--lr", "1e-3")
    assert "step 2: loss" in said
    assert changed(model, work / "flat")


def test_the_flat_loop_is_about_a_hundred_lines() -> None:
    assert len((ROOT / "examples" / "weighted_loop.py").read_text().splitlines()) < 110


def test_a_plain_trainer_learns_from_the_table(work: Path, model: Path, table: Path) -> None:
    options = ("--model", model, "--weights", table, "--steps", "2", "--output", "plain", "--lr", "1e-3")
    example(work, "weighted_trainer.py", *options)
    assert changed(model, work / "plain")


needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="needs TRL: uv sync --group trl")


@needs_trl
def test_trl_fine_tunes_with_the_tables_weights(work: Path, model: Path, table: Path) -> None:
    example(work, "trl_weighted_sft.py", "--model", model, "--weights", table, "--steps", "2", "--output", "trl")
    assert (work / "trl" / "config.json").is_file()


@needs_trl
def test_trl_rewards_programs_that_pass_in_the_sandbox(work: Path, model: Path) -> None:
    split = work / "datasets" / "micro" / "train"
    options = ("--steps", "1", "--output", "grpo", "--completion-length", "16")
    example(work, "trl_grpo_sandbox.py", "--model", model, "--split", split, *options)
    assert (work / "grpo" / "config.json").is_file()


def test_the_readmes_weighting_is_the_examples_and_trains_a_policy(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (ROOT / "examples" / "entropy_weighting.py").read_text().partition("import torch\n")[2].strip()
    for readme in ("README.md", "README.ko.md"):
        assert f"```python\n{code}\n```" in (ROOT / readme).read_text(), f"{readme} shows another weighting"
    monkeypatch.chdir(ROOT)
    means = weight_means(work, "entropy", "options.share=0.25")
    assert all(abs(mean - 0.25) < 0.03 for mean in means), means


def weight_means(work: Path, run: str, *options: str) -> list[float]:
    """Mean weights of the steps and validations of a run with a weighting of the examples."""
    common = [f"run.root={work}/runs", f"data.root={work}/datasets", "tracking=none", f"run.name={run}"]
    common += [f"model.source={work}/runs/reference", "training.max_steps=2", "optim.warmup_steps=1"]
    chosen = [
        part for option in [*common, "training.validation_batches=1", *options] for part in ("--override", option)
    ]
    wmtp("train", "third-party", "--config", "configs/local/third_party_local.yaml", *chosen)
    steps = map(json.loads, (work / "runs" / run / "metrics.jsonl").read_text().splitlines())
    means = [step["weight/mean"] for step in steps if "weight/mean" in step]
    assert means
    return means


@pytest.mark.parametrize(
    ("name", "options", "least", "most"),
    [
        ("WhereProgramsDiffer", ["options.weight=2"], 1.1, 1.9),
        ("CreditWhereProgramsDiffer", ["options.critic=CRITIC", "options.w_min=1"], 1.01, 1.9),
        ("UpToTheFault", [], 1.0, 1.0),
        ("UpToTheFault", ["data.sampling.labels=all"], 0.5, 1.0),
    ],
)
def test_weightings_that_are_told_which_tokens_decide_train_a_policy(
    work: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: list[str], least: float, most: float
) -> None:
    monkeypatch.chdir(ROOT)
    given = [option.replace("CRITIC", f"{work}/runs/critic") for option in options]
    means = weight_means(
        work, f"marked-{len(options)}-{name}", f"token_weighting=examples.marked_weighting:{name}", *given
    )
    assert all(least <= mean <= most for mean in means), means
    if "data.sampling.labels=all" in options:
        assert min(means) < 1


def test_programs_count_up_to_their_first_wrong_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    up_to, where = (
        weighting_named(f"examples.marked_weighting:{name}") for name in ("UpToTheFault", "WhereProgramsDiffer")
    )
    marks = torch.tensor([[0, 1, 2, 0, 3], [1, 1, 0, 0, 0]], dtype=torch.uint8)
    mask = torch.ones_like(marks, dtype=torch.bool)
    batch = Batch(marks.long(), mask, mask, torch.arange(2), marks)
    assert up_to(None)([batch], {})[0][0].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert where(None)([batch], {})[0][0].tolist() == [[1, 3, 1, 1, 3], [3, 3, 1, 1, 1]]
