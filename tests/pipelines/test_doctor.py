"""`wmtp doctor`: what it finds of an environment, and what it says to do."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner

from weighted_mtp import extras
from weighted_mtp.cli import app
from weighted_mtp.pipelines import doctor, environment
from weighted_mtp.runtime import device
from weighted_mtp.sandbox.attacks import Attack, Finding

NAMES = ["packages", "device", "precision", "disk", "storage", "hub token", "extras", "isolation"]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    yield
    os.environ.pop("HF_TOKEN", None)  # which was read from .env


def examined(*options: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Exit code, name → check, and everything."""
    done = CliRunner().invoke(app, ["doctor", "--no-attacks", "--json", *options])
    facts = json.loads(done.stdout)
    return done.exit_code, {check["name"]: check for check in facts["checks"]}, facts


def test_every_check_says_what_it_found_and_what_is_not_good_what_to_do() -> None:
    code, checks, facts = examined()
    assert list(checks) == NAMES
    assert all(check["found"] for check in checks.values())
    assert all(check["fix"] for check in checks.values() if check["state"] != "good")
    assert code == int(any(check["state"] == "bad" for check in checks.values()))
    assert facts["attacks"] == {"tried": 0, "not_held": {}}
    assert f"Python {platform.python_version()}" in checks["packages"]["found"]


def test_the_table_has_the_same() -> None:
    done = CliRunner().invoke(app, ["doctor", "--no-attacks"], env={"COLUMNS": "200"})
    assert all(name in done.stdout for name in NAMES)
    assert "what to do" in done.stdout


def test_an_untested_python_and_little_disk_are_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3e9))
    checks = {check.name: check for check in environment.environment(Path("storage"))}
    assert (checks["packages"].state, checks["disk"].state) == ("limited", "limited")
    assert "3.11 to 3.14" in checks["packages"].fix
    assert checks["disk"].found.startswith("3 GB free")


def test_a_gpu_that_pytorch_cannot_use_is_a_limit_with_its_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(device, "GPU_FILES", (tmp_path / "nvidia0",))
    assert examined()[1]["device"]["state"] == "good"
    (tmp_path / "nvidia0").touch()
    found = examined()[1]["device"]
    assert (found["state"], "this machine has a GPU" in found["found"]) == ("limited", True)
    assert "driver" in found["fix"]


def test_bf16_instructions_decide_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, state in ((True, "good"), (False, "limited")):
        monkeypatch.setattr(environment, "has_bf16", lambda _, there=there: there)
        assert examined()[1]["precision"]["state"] == state


def test_storage_lists_what_is_prepared_and_one_that_cannot_be_written_is_bad(tmp_path: Path) -> None:
    assert examined()[1]["storage"]["fix"].startswith("`wmtp data`")
    (tmp_path / "elsewhere" / "datasets" / "mine").mkdir(parents=True)
    (tmp_path / "elsewhere" / "datasets" / "mine" / "manifest.json").write_text("{}")
    found = examined("--storage", "elsewhere")[1]["storage"]
    assert (found["state"], found["found"]) == ("good", "mine; 0 models, 0 runs in elsewhere")
    (tmp_path / "file").touch()
    code, checks, _ = examined("--storage", "file")
    assert (code, checks["storage"]["state"]) == (1, "bad")


def test_a_token_is_found_in_the_file_that_the_readme_names_and_a_placeholder_is_none(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HF_TOKEN=<your-token>\n")
    assert examined()[1]["hub token"]["state"] == "limited"
    (tmp_path / ".env").write_text("HF_TOKEN=hf_abcdefghij\n")
    assert examined()[1]["hub token"]["state"] == "good"


def test_a_missing_extra_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    find = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "wandb" else find(name))
    found = examined()[1]["extras"]
    assert (found["state"], "wandb" in found["found"]) == ("limited", False)
    assert "pip install 'weighted-mtp[wandb]'" in found["fix"]


def test_an_attack_that_was_not_held_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding(Attack(kind="theft", name="reads a secret", program=""), wrong=["it read it"])
    monkeypatch.setattr(doctor, "try_out", lambda: [finding])
    enough = SimpleNamespace(is_enough=True, system_calls=True, landlock=True, namespaces=True)
    monkeypatch.setattr(doctor, "offered", lambda: enough)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["attacks"] == {"tried": 1, "not_held": {"reads a secret": ["it read it"]}}
