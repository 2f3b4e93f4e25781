"""The wheel: what is in it, and that it works where there is no checkout."""

import os
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files in a folder that goes ahead of the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def python(installed: Path, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_the_package_the_configurations_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    package = ROOT / "src" / "weighted_mtp"
    code = {f.relative_to(package) for f in package.rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    configurations = {f.relative_to(ROOT) for f in (ROOT / "configs").rglob("*.yaml")}
    assert names == {f"weighted_mtp/{path.as_posix()}" for path in code | configurations}
    assert wheel.stat().st_size < 1_500_000


def test_what_it_says_of_itself_has_bounds_and_versions(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(file.read(name).decode())
    supported = {line.rpartition(" ")[2] for line in headers.get_all("Classifier", []) if ":: 3." in line}
    assert supported == {"3.11", "3.12", "3.13", "3.14"}
    required = headers.get_all("Requires-Dist", [])
    by_date = ("fsspec", "packaging", "pyarrow")
    assert [line for line in required if "<" not in line and not line.startswith(by_date)] == []


def test_it_is_what_runs_and_finds_its_configurations_outside_of_the_repository(
    installed: Path, tmp_path: Path
) -> None:
    where = python(installed, "-c", "import weighted_mtp; print(weighted_mtp.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed)
    wmtp = ("-m", "weighted_mtp.cli")
    assert "local/demo" in python(installed, *wmtp, "configs", "list", cwd=tmp_path)
    assert "fits" in python(installed, *wmtp, "plan", "--config", "production/baseline.yaml", cwd=tmp_path)


def test_the_whole_method_runs_outside_of_the_repository(installed: Path, tmp_path: Path) -> None:
    few = MicroConfig(n_train=60, n_validation=10, n_test=12, n_test_pairs=4)
    write_micro(tmp_path / "storage" / "datasets", few)
    said = python(installed, "-m", "weighted_mtp.cli", "demo", "--steps", "2", "--seeds", "4", cwd=tmp_path)
    study = tmp_path / "storage" / "runs" / "demo-seeds-4-2-steps"
    assert "pass@1" in said
    assert str(study / "page.html").removeprefix(f"{tmp_path}/") in said
    assert all((study / name).is_file() for name in ("page.html", "comparison.json", "weights.html"))
