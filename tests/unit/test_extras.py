"""A missing extra is one line that names it; what does not need it goes on."""

import ast
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from weighted_mtp import extras
from weighted_mtp.cli import app
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "weighted_mtp"
BROUGHT = ("matplotlib", "mlflow", "submitit", "sqlalchemy", "alembic", "wandb", "tensorboard")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_micro(folder / "storage" / "datasets", MicroConfig(n_train=60, n_validation=10, n_test=12, n_test_pairs=4))
    return folder


@pytest.fixture
def without_extras(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    extras._say_once.cache_clear()
    for name in BROUGHT:
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    monkeypatch.delitem(sys.modules, "weighted_mtp.study.slurm", raising=False)
    return work / "storage"


def wmtp(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_a_run_without_mlflow_is_kept_in_its_folder_and_says_so_once(
    without_extras: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "model.micro={hidden_size: 32, num_attention_heads: 2, num_hidden_layers: 2}"
    options = ["model.source=micro", small, "training={max_steps: 2, validate_every: 2, save_every: 2}"]
    flags = [part for option in [*options, "optim.warmup_steps=1"] for part in ("--override", option)]
    done = wmtp("train", "baseline", "--config", "local/baseline_local", *flags)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("not in MLflow") == 1
    assert "pip install 'weighted-mtp[mlflow]'" in done.stderr
    run = without_extras / "runs" / "baseline_local"
    assert len((run / "metrics.jsonl").read_text().splitlines()) > 2
    assert json.loads((run / "run.json").read_text())["mlflow_records"] == 0


def test_statistics_without_matplotlib_are_a_table(without_extras: Path) -> None:
    done = wmtp("data", "--datasets", "micro", "--steps", "stats")
    assert done.exit_code == 0, done.output
    assert "no figures are drawn: install matplotlib with `pip install 'weighted-mtp[plots]'`" in done.stderr
    assert (without_extras / "datasets" / "micro" / "stats.json").is_file()
    assert not (without_extras / "datasets" / "micro" / "stats.png").exists()


def test_slurm_without_submitit_is_one_line(without_extras: Path) -> None:
    done = wmtp("study", "--config", "local/demo", "--scheduler", "slurm")
    assert done.exit_code == 2
    assert "error: --scheduler slurm: install submitit with `pip install 'weighted-mtp[slurm]'`" in done.stderr


def test_only_what_is_imported_on_demand_imports_an_extra_at_its_top() -> None:
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for node in ast.parse(file.read_text()).body
        if (isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in BROUGHT)
        or (isinstance(node, ast.Import) and any(alias.name.partition(".")[0] in BROUGHT for alias in node.names))
    }
    assert found == {"report/token_picture.py"}


def test_all_extras_come_with_the_environment_that_tests_run_in() -> None:
    assert all(extras.has(extra) for extra in ("mlflow", "plots", "slurm", "tensorboard", "wandb"))
