"""What `wmtp plan` says a rank needs, against what a rank takes."""

import importlib.util
from pathlib import Path

import pytest
from group import run_group, values
from runs import prepare

ROOT = Path(__file__).resolve().parents[2]
specification = importlib.util.spec_from_file_location("memory_plan", ROOT / "benchmarks" / "memory_plan.py")
benchmark = importlib.util.module_from_spec(specification)
specification.loader.exec_module(benchmark)

SMALL = [
    *("model.micro.hidden_size=256", "model.micro.intermediate_size=1024", "model.micro.num_attention_heads=8"),
    *("model.micro.num_hidden_layers=6", "data.max_tokens=256"),  # so that a gathered layer is a small part of it
]
# A CPU's attention in bf16 keeps all scores, and the plan's rows are as long as data.max_length allows.
BF16 = ["runtime.precision=bf16", "data.max_length=60"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    prepare(folder, benchmark.PROBLEMS)
    return folder


@pytest.mark.parametrize(
    "more",
    [[], ["model.lora.r=8"], BF16, ["model.lora.r=8", *BF16]],
    ids=["full", "LoRA", "full, bf16", "LoRA, bf16"],
)
@pytest.mark.parametrize(("ranks", "parallel"), benchmark.SPREAD)
def test_the_planned_peak_is_the_measured_one_within_15_percent(
    storage: Path, ranks: int, parallel: str, more: list[str]
) -> None:
    name = f"{ranks}-{parallel}-{'-'.join(more)}"
    run = benchmark.baseline(storage, name, ranks, *SMALL, f"runtime.parallel={parallel}", *more)
    measured = max(values(run_group(ranks, benchmark.tensors_peak, *run)))
    assert benchmark.planned_peak(run, ranks) == pytest.approx(measured, rel=0.15), measured
