"""On a device that is not the CPU no two devices' tensors meet, none is in fp64, and what is waited for is counted.

The numbers are golden: one that rises is a wait for the GPU that somebody added. Of each pass of a model one is
transformers', which looks for packed sequences wherever it makes a mask (two masks in Gemma 2 and 3).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tests/support", "tests/distributed", "benchmarks")

MICROBATCH = {name: 2 if name in ("gemma2", "gemma3") else 1 for name in ARCHITECTURES}
WAITS = {
    **{f"microbatch, {name}": waits for name, waits in MICROBATCH.items()},
    "microbatch, llama, LoRA": 1,
    "metrics of a step": 1,
    "clipping": 1,
    # Two microbatches each, of which Rho-1 passes the policy and the reference.
    "uniform": 0,
    "td": 2,
    "td by head": 2,
    "td with reward": 2,
    "shuffled": 2,
    "random matched": 2,
    "position matched": 2,
    "signed": 4,
    "absolute": 4,
    "difficult": 2,
    # One microbatch each, metrics included.
    "critic, pairwise_ranking": 2,
    "critic, pairwise_ranking by last": 2,
    "critic, lambda_return": 6,
    "critic, outcome": 6,
    "critic, implicit": 3,
}
SAMPLED = {"sampling, greedy": 11, "sampling, drawn": 29}
"""At most, for two prompts of six tokens: a first look at the model, prompts and the nucleus included."""


@pytest.fixture(scope="module")
def traced() -> dict[str, dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in FOLDERS)}
    script = ROOT / "tests" / "support" / "traced_steps.py"
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_cpu_tensor_that_meets_a_devices_is_seen(traced: dict[str, dict[str, Any]]) -> None:
    assert "'gpu'), ((2,), 'cpu')" in traced["meeting"]["error"]


def test_double_precision_on_a_device_that_has_none_is_seen(traced: dict[str, dict[str, Any]]) -> None:
    assert "fp64" in traced["double precision"]["error"]


@pytest.mark.parametrize("name", WAITS)
def test_waits_for_the_device_are_what_they_were(traced: dict[str, dict[str, Any]], name: str) -> None:
    assert traced[name]["waits"] == WAITS[name], traced[name]["of"]


def test_a_microbatch_and_its_metrics_copy_nothing_to_the_device(traced: dict[str, dict[str, Any]]) -> None:
    names = [name for name in traced if name.startswith(("microbatch", "metrics", "clipping", "uniform"))]
    assert {name: traced[name]["arrivals"] for name in names} == dict.fromkeys(names, 0)


@pytest.mark.parametrize("name", SAMPLED)
def test_sampling_waits_a_few_times_per_token(traced: dict[str, dict[str, Any]], name: str) -> None:
    assert 0 < traced[name]["waits"] <= SAMPLED[name], traced[name]["of"]
