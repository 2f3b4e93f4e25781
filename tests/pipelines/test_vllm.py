"""`wmtp evaluate --engine vllm`: with a stand-in, and with vLLM itself where it is installed (docs/EVALUATION.md)."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_vllm import FakeVllm
from test_engines import rows
from test_evaluation import asked, error_of, wmtp
from tiny_models import GROUPED, byte_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from weighted_mtp.decoding import vllm_engine
from weighted_mtp.models.card import ModelOrigin
from weighted_mtp.models.convert import write_model
from weighted_mtp.models.mtp import MTPForCausalLM

VLLM = ("--engine", "vllm")
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM itself is not installed")
ON_A_CPU = "kv_cache_memory_bytes=200000000,enforce_eager=true"


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    fake = FakeVllm()
    monkeypatch.setitem(sys.modules, "vllm", fake)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "vllm.platforms", fake.platforms)  # type: ignore[arg-type]
    return fake


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(**{**GROUPED, "head_dim": 32, "max_position_embeddings": 4096})  # vLLM's smallest head
    base = AutoModelForCausalLM.from_config(config).eval()
    write_model(
        MTPForCausalLM.from_base(base, 2), byte_tokenizer(), tmp_path / "policy", ModelOrigin("policy", "A test.")
    )
    return tmp_path / "policy"


def test_vllm_gets_the_plain_export_of_a_policy_and_a_seed_for_each_sample(
    data: Path, policy: Path, vllm: FakeVllm, tmp_path: Path
) -> None:
    result = wmtp(*asked(data, policy, tmp_path / "out", *VLLM, "--stop", "x"))
    assert result.exit_code == 0, result.output
    assert vllm.config["architectures"] == ["LlamaForCausalLM"]
    assert {"model.safetensors", "tokenizer.json"} <= set(vllm.folder)
    assert not Path(vllm.made["model"]).exists()
    assert (vllm.made["max_num_seqs"], vllm.made["dtype"]) == (5, "float32")
    assert "enable_chunked_prefill" not in vllm.made
    assert len({p.seed for p in vllm.parameters}) == 24
    first = vllm.parameters[0]
    assert (first.n, first.temperature, first.max_tokens, first.stop) == (1, 1.0, 9, ["x"])
    assert byte_tokenizer().eos_token_id in first.stop_token_ids
    found = rows(tmp_path / "out")
    assert [(row["task_id"], row["sample"]) for row in found] == [
        (f"micro/test/{p}", s) for p in range(12) for s in range(2)
    ]
    assert {(row["finished"], row["tokens"]) for row in found} == {("eos", 3)}
    assert all(row["text"] for row in found)  # of its tokens, decoded here
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["origin"]["engine"] == "vllm"
    again = wmtp(*asked(data, policy, tmp_path / "out", "--stop", "x"))
    assert "engine: vllm → torch" in error_of(again)


def test_an_ordinary_model_is_given_to_vllm_as_it_is(data: Path, model: Path, vllm: FakeVllm, tmp_path: Path) -> None:
    assert wmtp(*asked(data, model, tmp_path / "out", *VLLM)).exit_code == 0
    assert vllm.made["model"] == str(model)


def test_vllm_always_has_more_to_do_than_it_may_have_in_progress(
    data: Path, model: Path, vllm: FakeVllm, tmp_path: Path
) -> None:
    assert wmtp(*asked(data, model, tmp_path / "out", *VLLM, "--batch-size", "4")).exit_code == 0
    assert (vllm.made["max_num_seqs"], vllm.most) == (4, 8)


def test_samples_that_vllm_finished_before_it_stopped_are_kept(
    data: Path, model: Path, vllm: FakeVllm, tmp_path: Path
) -> None:
    vllm.dies_after = 7
    stopped = wmtp(*asked(data, model, tmp_path / "out", *VLLM))
    assert "vLLM stopped (EngineCore encountered an issue.)" in error_of(stopped)
    assert len(rows(tmp_path / "out", "samples.jsonl.partial")) == 7
    vllm.dies_after, vllm.parameters = None, []
    resumed = wmtp(*asked(data, model, tmp_path / "out", *VLLM))
    assert resumed.exit_code == 0, resumed.output
    assert len(vllm.parameters) == 17
    assert len(rows(tmp_path / "out")) == 24


def test_a_vllm_whose_process_is_killed_is_not_waited_for(
    data: Path, model: Path, vllm: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = SimpleNamespace(name="EngineCore", is_alive=lambda: False)
    children = iter([[], [killed]])  # before it starts, and after
    monkeypatch.setattr(vllm_engine.multiprocessing, "active_children", lambda: next(children))
    monkeypatch.setattr(vllm_engine, "_LOOK_SECONDS", 0.01)
    vllm.dies_after, vllm.hangs = 7, True
    stopped = wmtp(*asked(data, model, tmp_path / "out", *VLLM))
    vllm.released.set()
    assert "vLLM stopped (its process EngineCore was killed, perhaps for lack of memory)" in error_of(stopped)
    assert len(rows(tmp_path / "out", "samples.jsonl.partial")) == 7


def test_vllms_own_arguments_are_handed_on_with_the_values_that_they_look_like(
    data: Path, model: Path, vllm: FakeVllm, tmp_path: Path
) -> None:
    vllm.platforms.current_platform.is_cpu = lambda: True
    more = ("--vllm-args", "gpu_memory_utilization=0.5,enforce_eager=true,quantization=fp8")
    assert wmtp(*asked(data, model, tmp_path / "out", *VLLM, *more)).exit_code == 0
    wanted = {"gpu_memory_utilization": 0.5, "enforce_eager": True, "quantization": "fp8"}
    assert wanted.items() <= vllm.made.items()
    assert vllm.made["enable_chunked_prefill"] is False  # on a CPU, where seeds do not survive it
    origin = json.loads((tmp_path / "out" / "evaluation.json").read_text())["origin"]
    assert origin["vllm_args"] == more[1].split(",")


@pytest.mark.parametrize(
    ("options", "refused", "message"),
    [
        ((*VLLM, "--vllm-args", "fast"), None, "--vllm-args fast: give NAME=VALUE"),
        ((*VLLM, "--vllm-args", "dtype=half"), None, "dtype follows from this command's other options"),
        (("--vllm-args", "enforce_eager=true"), None, "--vllm-args has no effect without --engine vllm"),
        (VLLM, TypeError("unexpected keyword argument 'fast'"), "does not start (unexpected keyword argument 'fast')"),
        (VLLM, RuntimeError("no memory\nfor it"), "does not start (no memory); what it wrote above may say why"),
    ],
)
def test_what_vllm_cannot_be_asked_is_one_line(
    data: Path,
    model: Path,
    vllm: FakeVllm,
    tmp_path: Path,
    options: tuple[str, ...],
    refused: Exception | None,
    message: str,
) -> None:
    vllm.refuses = refused
    assert message in error_of(wmtp(*asked(data, model, tmp_path / "out", *options)))


def test_without_vllm_it_is_said_how_to_get_it(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # type: ignore[arg-type]
    result = wmtp(*asked(data, model, tmp_path / "out", *VLLM))
    assert "vLLM cannot be imported" in error_of(result)
    assert "install it beside this package" in error_of(result)


@needs_vllm
@pytest.mark.filterwarnings("default")
def test_vllm_itself_draws_the_likeliest_tokens_that_this_process_draws(
    data: Path, policy: Path, tmp_path: Path
) -> None:
    greedy = ("--n", "1", "--temperature", "0")
    for output, more in (("torch", ()), ("vllm", (*VLLM, "--vllm-args", ON_A_CPU))):
        result = wmtp(*asked(data, policy, tmp_path / output, *greedy, *more))
        assert result.exit_code == 0, result.output
    assert rows(tmp_path / "vllm") == rows(tmp_path / "torch")


@needs_vllm
@pytest.mark.filterwarnings("default")
def test_vllm_itself_draws_a_sample_alike_whatever_others_are_drawn(data: Path, policy: Path, tmp_path: Path) -> None:
    for output, more in (("two", ("--n", "2")), ("three", ("--n", "3", "--batch-size", "2"))):
        result = wmtp(*asked(data, policy, tmp_path / output, *VLLM, "--vllm-args", ON_A_CPU, *more))
        assert result.exit_code == 0, result.output
    two, three = ({(r["task_id"], r["sample"]): r["text"] for r in rows(tmp_path / n)} for n in ("two", "three"))
    assert len(two) == 24
    assert len(set(two.values())) > 12
    assert {key: three[key] for key in two} == two
