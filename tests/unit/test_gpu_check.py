"""The check of a GPU, rehearsed on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_check.py"


def checked(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--device", "cpu", "--small", *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_check_passes_where_the_device_is_the_cpu(tmp_path: Path) -> None:
    done = checked("--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "gpu_check.json").read_text())
    assert f"{len(results)} of {len(results)} ok" in done.stdout
    numbers = {result["check"]: result["numbers"] for result in results}
    assert len(numbers) == 16
    assert len(numbers["pipelines_resume"]) == 2
    assert (tmp_path / "gpu_check.md").read_text().count("| ok |") == 16


def test_a_check_that_does_not_exist_is_named() -> None:
    done = checked("--only", "nothing")
    assert done.returncode == 2
    assert "--only nothing: no such check" in " ".join(done.stderr.replace("│", " ").split())
