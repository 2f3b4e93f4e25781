"""The commands as a user types them: a tiny run from data to verdicts, and one line for every mistake."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from weighted_mtp.cli import app
from weighted_mtp.config import load_config, read_options
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.pipelines.kinds import pipeline_of
from weighted_mtp.study.config import StudyConfig, Training

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "model.source=micro",
    "model.micro.hidden_size=32",
    "model.micro.num_attention_heads=2",
    "model.micro.num_hidden_layers=2",
    "training.max_steps=4",
    "training.validate_every=2",
    "training.save_every=2",
    "optim.warmup_steps=1",
]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small micro benchmark, as `wmtp data --datasets micro` would lay it out."""
    folder = tmp_path_factory.mktemp("storage")
    write_micro(folder / "datasets", MicroConfig(n_train=60, n_validation=10, n_test=12, n_test_pairs=4))
    return folder


def overrides(storage: Path, name: str, *more: str) -> list[str]:
    options = [
        f"run.name={name}",
        f"run.root={storage}/runs",
        f"data.root={storage}/datasets",
        f"model.micro_tokenizer={storage}/datasets/micro/tokenizer",
        f"mlflow.tracking_uri=sqlite:///{storage}/mlflow.db",
        *TINY,
        *more,
    ]
    return [part for option in options for part in ("--override", option)]


def wmtp(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(storage: Path, name: str, *more: str) -> Result:
    config = ROOT / "configs" / "local" / "baseline_local.yaml"
    return wmtp("train", "baseline", "--config", config, *overrides(storage, name, *more))


def error_of(result: Result) -> str:
    """The one line that the command ended with."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    return lines[0]


def test_a_run_is_trained_tracked_sampled_executed_and_exported(storage: Path) -> None:
    result = train(storage, "whole")
    assert result.exit_code == 0, result.output
    run = storage / "runs" / "whole"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 2, 3, 4, 4]
    assert json.loads((run / "run.json").read_text())["mlflow_run_id"]
    output = storage / "evaluation"
    result = wmtp(
        *("evaluate", "--benchmark", "micro", "--checkpoint", run, "--output", output),
        *("--data-root", storage / "datasets", "--max-new-tokens", "12"),
    )
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    assert len(records) == 12
    assert {"task_id", "completion", "taken", "result", "passed"} <= records[0].keys()
    report = json.loads((output / "report.json").read_text())
    assert report["pass_at_k"]["1"]["value"] == sum(r["passed"] for r in records) / 12
    assert wmtp("models", "export", run, storage / "plain").exit_code == 0
    assert type(AutoModelForCausalLM.from_pretrained(storage / "plain")).__name__ == "LlamaForCausalLM"


def test_the_same_command_resumes_and_a_finished_run_stays_as_it_is(storage: Path) -> None:
    assert train(storage, "again").exit_code == 0
    run = storage / "runs" / "again"
    metrics = (run / "metrics.jsonl").read_text()
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    assert train(storage, "again").exit_code == 0
    again = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in metrics.splitlines()]
    for record in (*again, *before):
        record.pop("seconds", None)
    assert again == before


def test_without_mlflow_no_database_is_made(storage: Path, tmp_path: Path) -> None:
    uri = f"mlflow.tracking_uri=sqlite:///{tmp_path}/other.db"
    assert train(storage, "untracked", "tracking=none", uri).exit_code == 0
    assert not (tmp_path / "other.db").exists()


def test_lora_trains_and_its_checkpoint_is_an_ordinary_policy(storage: Path) -> None:
    assert train(storage, "base").exit_code == 0
    model = storage / "runs" / "base" / "checkpoints" / "step-00000004" / "model"
    assert train(storage, "lora", f"model.source={model}", "model.lora={r: 2}").exit_code == 0
    run = storage / "runs" / "lora"
    assert wmtp("models", "export", run, storage / "lora-plain").exit_code == 0


def test_the_first_command_of_the_brief_runs_from_the_file(storage: Path) -> None:
    script = ROOT / "src" / "weighted_mtp" / "pipelines" / "run_baseline.py"
    done = subprocess.run(
        [sys.executable, script, "--config", "configs/local/baseline_local.yaml", *overrides(storage, "script")],
        cwd=ROOT,
        env={"PYTHONPATH": "src", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(storage / "runs" / "script")


def test_a_first_run_in_an_empty_storage_generates_the_embedded_data(tmp_path: Path) -> None:
    assert (
        train(
            tmp_path, "first", "training.max_steps=1", "optim.warmup_steps=0", "training.validation_batches=1"
        ).exit_code
        == 0
    )
    assert (tmp_path / "datasets" / "micro" / "manifest.json").exists()


def broken_yaml(folder: Path) -> Path:
    path = folder / "broken.yaml"
    path.write_text("run: {name: x\n")
    return path


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("training.max_stepz=3", "the nearest known one is `training.max_steps`"),
        ("model.n_future_tokens=0", "model.n_future_tokens"),
        ("model.micro.num_hidden_layers=1", "num_hidden_layers"),
        ("model.micro.hidden_size=33", "must be a multiple of"),
        ("model={source: x, head_init: random, lora: {r: 2}}", "set model.lora.full_heads=true"),
        ("model.head_init=random", "head_init=random has no effect with source=micro"),
        ("model={n_future_tokens: 1, head_warmup_steps: 2}", "head_warmup_steps is about heads 2 … H"),
        ("model={n_future_tokens: 1, heads_only: true}", "heads_only is about heads 2 … H"),
        (
            "model={source: x, heads_only: true, head_warmup_steps: 2}",
            "head_warmup_steps has no effect with heads_only",
        ),
        ("model={source: x, heads_only: true, heads_lr: 0.1}", "heads_lr has no effect with heads_only"),
        ("model={source: x, heads_only: true, lora: {r: 2}}", "lora has no effect with heads_only"),
        ("model.heads_only=true", "heads_only=true would keep the random trunk of source=micro"),
        ("model={n_future_tokens: 1, heads_lr: 0.1}", "heads_lr is about heads 2 … H"),
        ("model={n_future_tokens: 1, source: x, head_init: random}", "head_init is about heads 2 … H"),
        ("model={n_future_tokens: 1, lora: {full_heads: true}}", "lora.full_heads is about heads 2 … H"),
        ("model={n_future_tokens: 1}", "loss.detach_extra_heads is about heads 2 … H"),
        ("model.head_warmup_steps=4", "model.head_warmup_steps=4 must be less than training.max_steps=4"),
        ("optim.warmup_steps=4", "optim.warmup_steps=4 must be less than training.max_steps=4"),
        ("model.micro.max_position_embeddings=32", "but the model's context is 32: set data.max_length=32"),
        ("run.name=../elsewhere", "../elsewhere lies outside of run.root"),
        ("model.source=/nowhere", "/nowhere"),
        ("model.micro_tokenizer=/nowhere", "/nowhere"),
        ("data.dataset=mbpp", "wmtp data --datasets mbpp"),
        ("data.max_length=8", "max_length 8"),
        ("data.max_tokens=16", "max_tokens 16"),
        ("runtime.device=cuda", "runtime.device"),
        ("loss.head_coefficients=[1,1]", "head_coefficients has 2 entries"),
        ("loss.head_coefficients=[0,0,0,0]", "must be 0 or more, and not all 0"),
        ("loss.head_coefficients=[1,-1,1,1]", "must be 0 or more, and not all 0"),
        ("optim.lr=.nan", "optim.lr"),
        ("mlflow.tracking_uri=nonsense://x", "mlflow.tracking_uri=nonsense://x"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_no_checkpoint(storage: Path, option: str, expected: str) -> None:
    assert expected in error_of(train(storage, "wrong", option))
    shutil.rmtree(storage / "runs" / "wrong", ignore_errors=True)


def test_broken_yaml_is_one_line(tmp_path: Path) -> None:
    assert "not valid YAML" in error_of(wmtp("train", "baseline", "--config", broken_yaml(tmp_path)))


def damage_column(split: Path) -> None:
    file = split / "solutions.parquet"
    pq.write_table(pq.read_table(file).drop_columns("code"), file)


def empty_split(split: Path) -> None:
    file = split / "solutions.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)


def truncate_file(split: Path) -> None:
    file = split / "solutions.parquet"
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [(damage_column, "code"), (empty_split, "no correct solution"), (truncate_file, "solutions")],
)
def test_damaged_data_is_one_line(storage: Path, tmp_path: Path, damage: Callable[[Path], None], expected: str) -> None:
    shutil.copytree(storage / "datasets", tmp_path / "datasets")
    damage(tmp_path / "datasets" / "micro" / "train")
    message = error_of(train(storage, "damaged", f"data.root={tmp_path}/datasets"))
    assert expected in message
    assert not (storage / "runs" / "damaged").exists()


def test_a_tokenizer_that_does_not_fit_the_model_is_one_line(storage: Path, tmp_path: Path) -> None:
    assert train(storage, "fits").exit_code == 0
    model = tmp_path / "model"
    shutil.copytree(storage / "runs" / "fits" / "checkpoints" / "step-00000004" / "model", model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 5000, "content": "new", "special": False})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "tokenizer has" in error_of(train(storage, "misfit", f"model.source={model}"))


def test_a_folder_that_may_not_be_written_is_one_line(storage: Path) -> None:
    assert "/proc/nowhere" in error_of(train(storage, "x", "run.root=/proc/nowhere"))


@pytest.mark.parametrize("small_disk", [100], indirect=True)  # room for a run's small files, not for its checkpoint
def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(storage: Path, small_disk: Path) -> None:
    assert "disk is full" in error_of(train(storage, "full", f"run.root={small_disk}"))
    assert list((small_disk / "full" / "checkpoints").iterdir()) == []
    assert (small_disk / "full" / "metrics.jsonl").stat().st_size > 0


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*/*.yaml")), ids=lambda file: file.name)
def test_every_configuration_in_the_repository_is_valid(file: Path) -> None:
    kind = file.stem.split("_")[0]
    if kind in ("demo", "study"):
        study = load_config(StudyConfig, file)
        steps = [step for step in (*study.stages.values(), *study.arms.values()) if isinstance(step, Training)]
        assert all((file.parent / step.config).is_file() for step in steps)
    else:
        schema = pipeline_of(read_options(file), str(file)).schema
        assert load_config(schema, file).run.name


def test_no_stop_of_a_configuration_cuts_an_answer_where_its_code_begins() -> None:
    texts = [file.read_text() for file in sorted((ROOT / "configs").glob("*/*.yaml"))]
    stops = {stop for text in texts for stop in (yaml.safe_load(text).get("sampling") or {}).get("stop", ())}
    assert stops
    openings = [f"{before}{fence}\n" for before in ("", "So:\n", "So:\n\n") for fence in ("```", "```python", "~~~")]
    code = "def f(x):\n\n    return x\n"
    assert [(stop, opening) for stop in stops for opening in openings if stop in opening + code] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--benchmark", "micra", "--samples", "x"], "micra"),
        (["--benchmark", "micro"], "give one of --checkpoint"),
        (["--benchmark", "micro", "--samples", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--benchmark", "micro", "--samples", "x", "--temperature", "0.5"], "--temperature has no effect"),
        (["--benchmark", "micro", "--checkpoint", "/nowhere"], "/nowhere"),
    ],
)
def test_a_wrong_evaluation_is_one_line(storage: Path, tmp_path: Path, arguments: list[str], expected: str) -> None:
    common = ["--output", str(tmp_path / "out"), "--data-root", str(storage / "datasets")]
    assert expected in error_of(wmtp("evaluate", *arguments, *common))
    assert not (tmp_path / "out").exists()


def test_the_demo_ends_with_its_table_and_says_where_everything_lies(tmp_path: Path) -> None:
    write_micro(tmp_path / "datasets", MicroConfig(n_train=60, n_validation=10, n_test=12, n_test_pairs=4))
    result = wmtp("demo", "--storage", tmp_path, "--steps", "2", "--seeds", "4", "--seeds", "5")
    assert result.exit_code == 0, result.output
    study = tmp_path / "runs" / "demo-seeds-4-5-2-steps"
    arms = ("uniform", "confidence", "verifiable", "shuffled", "critic-as-policy", "rho1")
    for fact in ("pass@1 on 12 problems", "localisation auc", *(f"{arm} (2 seeds)" for arm in arms), "Over 2 seeds."):
        assert fact in result.stdout
    results = [study / f"{arm}-seed-4" / "evaluation-micro" / "results.jsonl" for arm in arms]
    figures = (study / "comparison.png", study / "curves.png")
    for place in (study / "comparison.md", *figures, study / "page.html", study / "weights.html", *results):
        assert place.stat().st_size > 0
        assert str(place) in result.stdout
