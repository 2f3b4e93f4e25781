"""`wmtp study` by schedulers: the same results from processes and Slurm jobs, and how they fail and are stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from typer.testing import CliRunner, Result

from weighted_mtp.cli import app
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "local"
TINY = ["model.micro.hidden_size=32", "model.micro.num_attention_heads=2", "model.micro.num_hidden_layers=2"]
FRESH = ["model.source=micro", "model.micro_tokenizer=${datasets}/micro/tokenizer", *TINY]
PROGRAMS = {  # a Slurm of one machine: a job's number is its process's, its script what the file held when submitted
    "sbatch": 's=$(<"$1"); (SLURM_JOB_ID=$BASHPID exec bash -c "$s") >/dev/null 2>&1 & echo "Submitted batch job $!"',
    "srun": """while [[ $1 == --* ]]; do
    case $1 in --output) out=$2; shift 2;; --error) err=$2; shift 2;; *) shift;; esac
done
exec "$@" >"${out/\\%j_%t/${SLURM_JOB_ID}_0}" 2>"${err/\\%j_%t/${SLURM_JOB_ID}_0}" """,
    "sacct": "echo 'JobID|State|NodeList'",
    "scancel": 'kill -TERM "$1"',
}


def nested(*options: str) -> Any:
    """Options `a.b=c` as in a file."""
    return OmegaConf.to_container(OmegaConf.from_dotlist(list(options)))


def training(pipeline: str, *override: str, **more: Any) -> dict[str, Any]:
    config = CONFIGS / f"{pipeline}_local.yaml"
    return {"pipeline": pipeline, "config": str(config), "override": nested(*override), **more}


STUDY: dict[str, Any] = {
    "name": "s",
    "seeds": [3, 5],
    "stages": {"policy": training("baseline", *FRESH, per_seed=True)},
    "arms": {
        "uniform": training("baseline", "model.source=${policy}"),
        "faster": training("baseline", "model.source=${policy}", "optim.lr=1.0e-2"),
    },
    "override": {
        "training": {"max_steps": 2, "save_every": 2, "validate_every": 2},
        "optim": {"warmup_steps": 1},
        "tracking": "none",
        "runtime": {"threads": 1},  # as in this process: sums over threads differ in the last bits
    },
    "sampling": {"max_new_tokens": 8, "temperature": 1.0},
}


def written(storage: Path, config: Mapping[str, Any]) -> Path:
    file = storage / "study.yaml"
    file.write_text(yaml.safe_dump({**config, "storage": str(storage)}, sort_keys=False))
    return file


def study(storage: Path, config: Mapping[str, Any], *options: str) -> Result:
    return CliRunner().invoke(app, ["study", "--config", str(written(storage, config)), *options])


def with_arm(name: str, *override: str) -> dict[str, Any]:
    return {**STUDY, "arms": {**STUDY["arms"], name: training("baseline", *override)}}


def verdicts(storage: Path, place: str) -> list[tuple[str, str]]:
    """Of every problem the program, and what became of it."""
    file = storage / "runs" / "s" / place / "evaluation-micro" / "results.jsonl"
    return [(record["completion"], record["result"]) for record in map(json.loads, file.read_text().splitlines())]


def losses(storage: Path, place: str) -> list[float]:
    records = (storage / "runs" / "s" / place / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, records) if "loss" in record]


def table(result: Result) -> list[str]:
    """The comparison's lines, without those of the time that steps took."""
    compared = result.stdout[result.stdout.index("sampled at temperature") :]
    return [line for line in compared.splitlines() if "uniform" in line or "faster" in line]


def with_data(storage: Path) -> Path:
    write_micro(storage / "datasets", MicroConfig(n_train=30, n_validation=10, n_test=4, n_test_pairs=2))
    return storage


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The study in one process, step by step."""
    storage = with_data(tmp_path_factory.mktemp("alone"))
    result = study(storage, STUDY)
    assert result.exit_code == 0, result.output
    return storage, result


def test_processes_make_what_one_makes_and_a_failed_arm_leaves_the_others(
    tmp_path: Path, alone: tuple[Path, Result]
) -> None:
    storage, runs = with_data(tmp_path), tmp_path / "runs" / "s"
    result = study(storage, with_arm("uniform", "model.source=${datasets}/none"), "--jobs", "2")
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"error: {storage / 'study.yaml'}: uniform-seed-")
    assert f"{storage}/datasets/none" in line
    failed = line.split()[2].rstrip(":")
    assert "Traceback" in (runs / failed / "log.txt").read_text()
    assert (runs / "policy-seed-3" / "checkpoints" / "step-00000002").is_dir()
    result = study(storage, STUDY, "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert table(result) == table(alone[1]) != []
    for place in (f"{arm}-seed-{seed}" for arm in STUDY["arms"] for seed in STUDY["seeds"]):
        assert losses(storage, place) == losses(alone[0], place) != []
        assert verdicts(storage, place) == verdicts(alone[0], place) != []


def test_what_is_finished_is_not_handed_over_again(alone: tuple[Path, Result]) -> None:
    result = study(alone[0], STUDY, "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert "begins" not in result.stderr
    assert table(result) == table(alone[1])


def test_options_that_cannot_be_are_found_before_anything_runs(tmp_path: Path) -> None:
    result = study(tmp_path, with_arm("faster", "model.source=${policy}", "optim.lr=fast"), "--jobs", "2")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'study.yaml'}: faster-seed-3: ")
    assert "optim.lr" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_elsewhere_is_refused(tmp_path: Path) -> None:
    line = study(tmp_path, with_arm("faster", "run.name=mine")).stderr.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / 'study.yaml'}: faster-seed-3: ")
    assert "leave out run.name" in line


def test_a_study_that_is_told_to_stop_saves_what_trains_and_leaves_no_process(tmp_path: Path) -> None:
    storage, runs = with_data(tmp_path), tmp_path / "runs" / "s"
    config = {
        **STUDY,
        "override": nested("training.max_steps=100000", "training.save_every=100000", "tracking=none"),
    }
    command = [sys.executable, "-m", "weighted_mtp.cli", "study", "--config", str(written(storage, config))]
    with subprocess.Popen([*command, "--jobs", "2"], stderr=subprocess.PIPE, text=True) as process:
        metrics = [runs / f"policy-seed-{seed}" / "metrics.jsonl" for seed in STUDY["seeds"]]
        while not all(file.exists() and '"train"' in file.read_text() for file in metrics):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    for file in metrics:
        assert list(file.parent.glob("checkpoints/step-*")) != []
    assert not [line for line in command_lines() if str(storage).encode() in line]


def command_lines() -> Iterator[bytes]:
    """Of all processes; those that end meanwhile are passed over."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield place.read_bytes()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@pytest.mark.usefixtures("slurm")
def test_a_slurm_job_makes_what_one_process_makes(alone: tuple[Path, Result]) -> None:
    storage = alone[0]
    again = {**STUDY["arms"], "again": STUDY["arms"]["faster"]}
    result = study(
        storage, {**STUDY, "seeds": [3], "arms": again, "slurm": {"partition": "gpu"}}, "--scheduler", "slurm"
    )
    assert result.exit_code == 0, result.output
    assert losses(storage, "again-seed-3") == losses(storage, "faster-seed-3") != losses(storage, "uniform-seed-3")
    assert verdicts(storage, "again-seed-3") == verdicts(storage, "faster-seed-3")
    script = next((storage / "runs" / "s" / "again-seed-3" / "slurm").glob("*_submission.sh")).read_text()
    for option in ("partition=gpu", "dependency=singleton", "job-name=s-again-seed-3", "time=1440"):
        assert f"#SBATCH --{option}\n" in script


@pytest.mark.usefixtures("slurm")
def test_parameters_that_slurm_does_not_have_are_one_line(tmp_path: Path) -> None:
    line = study(tmp_path, {**STUDY, "slurm": {"partitoin": "gpu"}}, "--scheduler", "slurm").stderr.splitlines()[-1]
    assert line.startswith("error: --scheduler slurm, policy-seed-3: ")
    assert "partitoin" in line


def test_a_job_of_several_processes_is_refused(tmp_path: Path) -> None:
    line = study(tmp_path, {**STUDY, "slurm": {"tasks_per_node": 2}}, "--scheduler", "slurm").stderr.splitlines()[-1]
    assert line.startswith("error: slurm.tasks_per_node: a step is one process")


def test_a_machine_without_slurm_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    line = study(tmp_path, STUDY, "--scheduler", "slurm").stderr.splitlines()[-1]
    assert line.startswith("error: --scheduler slurm, policy-seed-3: ")
    assert "srun" in line


def test_without_submitit_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.delitem(sys.modules, "weighted_mtp.study.slurm", raising=False)
    line = study(tmp_path, STUDY, "--scheduler", "slurm").stderr.splitlines()[-1]
    how = "`pip install 'weighted-mtp[slurm]'` (in a checkout: `uv sync --dev`)"
    assert line == f"error: --scheduler slurm: install submitit with {how}"
