"""`wmtp plan`: what it says a rank needs, against arithmetic, and against big models."""

import io
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import BertConfig, FalconConfig, PreTrainedConfig
from typer.testing import CliRunner

from weighted_mtp.cli import app
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.errors import UserError
from weighted_mtp.memory.configured import Planned, planned
from weighted_mtp.memory.footprint import Microbatch, PassMemory, Weights, weights_of
from weighted_mtp.memory.layout import Footprint, Layout, footprint
from weighted_mtp.memory.plan import Machine, plan
from weighted_mtp.memory.table import PlanRow, plan_table

PARTS = [part.name for part in fields(Footprint) if part.name != "host"]
ROOT = Path(__file__).resolve().parents[2]
PRODUCTION = ROOT / "configs" / "production"
LOCAL = ROOT / "configs" / "local" / "baseline_local.yaml"
MICRO = [
    *("runtime.device=cpu", "model.source=micro", "model.micro.hidden_size=256", "model.micro.intermediate_size=1024"),
    *("model.micro.num_hidden_layers=8", "model.micro.num_attention_heads=8", "data.max_length=160"),
]

WEIGHTS = Weights(total=1000, trained=400, root=100, root_trained=0, part=90, part_trained=40)
PASSED = PassMemory(kept=3000, moments={0: 5000, 800: 4000, 1600: 1000})
ALONE = Layout(ranks=1, per_node=1, parallel="full", microbatches=1, precision="fp32")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    write_micro(folder / "datasets", MicroConfig(n_train=60, n_validation=10, n_test=2, n_test_pairs=2))
    return folder


def test_one_rank_holds_everything_and_its_gradients_as_they_come() -> None:
    found = footprint(WEIGHTS, PASSED, [], ALONE)
    assert (found.parameters, found.gradients, found.optimizer, found.gathered) == (4000, 1600, 3200, 0)
    assert found.peak == 4000 + 3200 + max(5000, 800 + 4000, 1600 + 1000)


def test_ranks_share_what_one_holds_and_gather_a_part_at_a_time() -> None:
    found = footprint(WEIGHTS, PASSED, [], Layout(8, 4, "full", 1, "bf16"))
    assert (found.parameters, found.gradients, found.optimizer) == (500, 200, 400)
    assert found.gathered == 4 * 100 + 3 * 2 * 90 + (2 + 4) * 40
    hybrid, copies = (footprint(WEIGHTS, PASSED, [], Layout(8, 4, way, 1, "bf16")) for way in ("hybrid", "ddp"))
    assert (hybrid.parameters, copies.parameters) == (1000, 4000)
    assert found.peak < hybrid.peak < copies.peak


def test_microbatches_without_reduction_keep_all_gradients_on_every_rank() -> None:
    apart, whole = (Layout(4, 4, "full", 2, "bf16", reduce_every_microbatch=each) for each in (True, False))
    few, many = (footprint(WEIGHTS, PASSED, [], layout) for layout in (apart, whole))
    assert (few.gradients, many.gradients) == (400, 1600)
    for found in (few, many):  # those of earlier microbatches, while the last one's activations are there
        assert found.peak == found.parameters + found.optimizer + found.gradients + PASSED.most + found.gathered


def test_offloading_moves_what_ranks_share_into_main_memory() -> None:
    evaluated = [(WEIGHTS, 700)]
    here, there = (footprint(WEIGHTS, PASSED, evaluated, Layout(4, 4, "full", 1, "bf16", off)) for off in (False, True))
    assert there.host == here.parameters + here.evaluated + here.gradients + here.optimizer
    assert there.peak == here.peak - here.parameters - here.evaluated - here.optimizer


@pytest.mark.parametrize(
    ("file", "billions", "evaluated"),
    [
        ("baseline", 6.74, {}),
        ("verifiable", 6.74, {"critic": 2.62}),
        ("rho1", 6.74, {"reference": 2.70}),
        ("ref_tuning", 2.70, {}),
        ("critic_mlp", 2.62, {}),
    ],
)
def test_every_production_configuration_is_planned_before_anything_is_there(
    file: str, billions: float, evaluated: dict[str, float]
) -> None:
    run = planned(PRODUCTION / f"{file}.yaml")
    with torch.device("meta"):
        trained, others = run.trained(), {name: build() for name, build in run.evaluated.items()}
    whole = sum(p.numel() for name, p in trained.named_parameters() if ".lora_" not in name)
    assert whole / 1e9 == pytest.approx(billions, abs=0.01)
    assert {name: weights_of(model).total / 1e9 for name, model in others.items()} == pytest.approx(evaluated, abs=0.01)
    assert 0 < weights_of(trained).trained < 0.2e9


def test_checkpointing_keeps_less_and_the_command_says_so(storage: Path) -> None:
    overrides = [
        f"--override={option}" for option in (*MICRO, f"model.micro_tokenizer={storage}/datasets/micro/tokenizer")
    ]
    config = ["--config", str(LOCAL), "--override=training.gradient_accumulation=2"]
    result = CliRunner().invoke(app, ["plan", *config, *overrides, "--gpus", "2"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert "MB per rank" in result.stdout
    found = re.findall(r"^ ((?:full|ddp) +(?:yes|no)) +(.*)$", result.stdout, re.MULTILINE)
    rows = {tuple(name.split()): numbers.split() for name, numbers in found}
    assert list(rows) == [("full", "no"), ("ddp", "no"), ("full", "yes"), ("ddp", "yes")]
    assert float(rows["full", "yes"][5]) < float(rows["full", "no"][5]) / 2
    assert float(rows["full", "no"][0]) == pytest.approx(float(rows["ddp", "no"][0]) / 2, rel=0.1)


def test_no_number_of_a_large_plan_is_cut_at_80_columns() -> None:
    """The widest names and numbers that there are."""
    most = Layout(ranks=8, per_node=4, parallel="hybrid", microbatches=1, precision="bf16", cpu_offload=True)
    needed = Footprint(**dict.fromkeys(PARTS, 9_999e9), host=0.004e9)
    rows = [PlanRow(replace(most, parallel=parallel), True, needed) for parallel in ("hybrid", "full", "ddp")]
    printed = io.StringIO()
    Console(file=printed, width=80).print(plan_table(rows, Microbatch(64, 131_072), 1000))
    assert printed.getvalue().count(" 9,999") == 3 * len(PARTS)
    assert printed.getvalue().count(" 0.00") == 3
    assert "hybrid, host" in printed.getvalue()
    assert "…" not in printed.getvalue()


@pytest.mark.parametrize(
    ("file", "override", "message"),
    [
        ("verifiable", "critic=nowhere", "critic=nowhere: no such run"),
        ("baseline", "model.source=storage/models/none", "there is no such model folder"),
    ],
)
def test_a_model_of_which_nothing_says_what_it_is_is_one_line(file: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(planned(PRODUCTION / f"{file}.yaml", (override,)))


def built(run: Planned) -> None:
    with torch.device("meta"):
        run.trained()


def test_ranks_that_cannot_share_a_step_are_one_line() -> None:
    with pytest.raises(UserError, match="gradient_accumulation=8 microbatches"):
        plan(planned(PRODUCTION / "baseline.yaml"), Machine(3))


@pytest.mark.parametrize(
    "config",
    [
        FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4),
        BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4),
    ],
    ids=lambda config: config.model_type,
)
def test_an_architecture_that_cannot_have_heads_is_refused(tmp_path: Path, config: PreTrainedConfig) -> None:
    config.save_pretrained(tmp_path / "base")
    (tmp_path / "baseline.yaml").write_text(
        f"pipeline: baseline\nrun: {{name: a}}\nmodel: {{source: {tmp_path}/base}}\n"
    )
    done = CliRunner().invoke(app, ["plan", "--config", str(tmp_path / "baseline.yaml")])
    assert done.exit_code == 2
    assert "error: base model" in done.stderr.splitlines()[-1]
