"""Several ranks train exactly what one does, sharded or not: losses, metrics, gradients."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from group import run_group, values
from numpy.typing import NDArray
from runs import Case, prepare, records, start_of, train_all
from safetensors.torch import load_file
from tiny_models import VOCABULARY, tiny_model
from torch.distributed.fsdp import OffloadPolicy

from weighted_mtp.data.batches import Batch
from weighted_mtp.losses.mtp_loss import LossConfig
from weighted_mtp.losses.objective import PolicyObjective
from weighted_mtp.losses.token_ce import next_token_cross_entropies
from weighted_mtp.models.adapters import LoraSettings, apply_lora
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.runtime import sharding
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast
from weighted_mtp.runtime.distributed import process_group, rank, ranks
from weighted_mtp.value_weighting.controls import Uniform

LORA = "{r: 4, alpha: 8}"
MANY = "training.gradient_accumulation=16"  # more than an epoch's batches: every step is an epoch's remainder

RUNS: dict[str, tuple[str, Sequence[str]]] = {
    "baseline": ("baseline", []),
    "verifiable, LoRA": ("verifiable", [f"model.lora={LORA}", "control=shuffled", "weighting.warmup_steps=3", MANY]),
    "Rho-1": ("rho1", ["control=random_matched", "model.head_warmup_steps=2"]),
    "critic": ("critic", ["critic.objective=pairwise_ranking"]),
    "baseline, bf16": ("baseline", ["runtime.precision=bf16"]),
    "implicit critic, LoRA": ("critic", ["critic.objective=implicit", "value.backbone=lora", MANY]),
}
SPREAD: dict[str, tuple[int, int, Sequence[str], Sequence[str]]] = {
    "2 full": (2, 2, ["activation_checkpointing=true"], list(RUNS)),
    "4 hybrid": (4, 2, ["parallel=hybrid", "reduce_every_microbatch=true"], ["baseline", "verifiable, LoRA"]),
    "2 ddp": (2, 2, ["parallel=ddp"], ["Rho-1", "implicit critic, LoRA"]),
}
"""Ranks, of which so many share a node; options of `runtime`; which runs."""
SPREAD_RUNS = [(spread, run) for spread, (*_, runs) in SPREAD.items() for run in runs]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    prepare(folder)
    return folder


def cases(storage: Path, spread: str, runs: Sequence[str], options: Sequence[str] = ()) -> list[Case]:
    return [
        (RUNS[run][0], f"{run}, {spread}", [*start_of(storage, RUNS[run][0]), *RUNS[run][1], *options]) for run in runs
    ]


@pytest.fixture(scope="module")
def trained(storage: Path) -> Path:
    """Where all runs lie, those of one rank and those of several."""
    train_all(storage, cases(storage, "alone", list(RUNS)))
    for spread, (world, per_node, runtime, runs) in SPREAD.items():
        options = [f"runtime.{option}" for option in runtime]
        values(run_group(world, train_all, storage, cases(storage, spread, runs, options), per_node=per_node))
    return storage / "runs"


@pytest.mark.parametrize(("spread", "run"), SPREAD_RUNS)
def test_ranks_train_what_one_does(trained: Path, spread: str, run: str) -> None:
    one, several = (records(trained / f"{run}, {name}") for name in ("alone", spread))
    assert len(one) > 8
    for a, b in zip(one, several, strict=True):
        if "bf16" in run:
            assert b["loss"] == pytest.approx(a["loss"], rel=0.01)
        else:
            assert b == {k: v if k == "split" else pytest.approx(v, rel=1e-5, abs=1e-6) for k, v in a.items()}


@pytest.mark.parametrize(("spread", "run"), [pair for pair in SPREAD_RUNS if "bf16" not in pair[1]])
def test_the_model_that_ranks_gather_and_write_is_the_one_of_one_rank(trained: Path, spread: str, run: str) -> None:
    newest = "checkpoints/step-00000008/model/model.safetensors"
    one, several = (load_file(trained / f"{run}, {name}" / newest) for name in ("alone", spread))
    assert one.keys() == several.keys()
    for name, weight in one.items():
        torch.testing.assert_close(several[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_ranks_keep_and_find_what_a_critic_that_they_share_returned(storage: Path) -> None:
    def options(file: str) -> list[str]:
        return [*start_of(storage, "verifiable"), MANY, "training.max_steps=3", f"frozen_cache.file={storage}/{file}"]

    train_all(storage, [("verifiable", "cached, alone", options("alone.sqlite"))])
    full = (storage / "alone.sqlite").read_bytes()
    shared = [("verifiable", f"cached, {file}", options(file)) for file in ("two.sqlite", "alone.sqlite")]
    values(run_group(2, train_all, storage, shared))
    assert (storage / "alone.sqlite").read_bytes() == full
    assert (storage / "two.sqlite").stat().st_size == len(full)
    one, *others = (records(storage / "runs" / f"cached, {name}") for name in ("alone", "two.sqlite", "alone.sqlite"))
    for several in others:
        for a, b in zip(one, several, strict=True):
            assert b == {k: v if k == "split" else pytest.approx(v, rel=1e-5, abs=1e-6) for k, v in a.items()}


def some_batch(seed: int, n_rows: int) -> Batch:
    ids = torch.randint(0, VOCABULARY, (n_rows, 9), generator=torch.Generator().manual_seed(seed))
    response = torch.zeros_like(ids, dtype=torch.bool)
    response[:, 4:] = True
    return Batch(ids, torch.ones_like(response), response, torch.arange(n_rows), torch.zeros_like(ids).byte())


BATCHES = [some_batch(seed, n_rows) for seed, n_rows in enumerate((1, 3, 2, 4))]


def gradients(architecture: str, parallel: str, config: RuntimeConfig) -> dict[str, NDArray[np.float32]]:
    """Σ over `BATCHES` of the loss' gradient, of which each rank computes its share in one microbatch after another."""
    with process_group(config):
        model = MTPForCausalLM.from_base(tiny_model(architecture), 3, "random").train()
        if ranks() > 1:
            mesh = sharding._mesh(torch.device("cpu"), parallel)
            sharding.shard(model, mesh, config, OffloadPolicy())
        else:
            sharding.placed(model, config)
        objective, own = PolicyObjective(Uniform(), LossConfig()), BATCHES[rank() :: ranks()]
        for number, item in enumerate(objective.prepare(own, {})[0]):
            sharding.reduce_gradients(model, number == len(own) - 1)
            with autocast(torch.device("cpu"), config):
                loss = objective.sums(model, item).loss
            loss.backward()
        return {name: sharding.whole_tensor(p.grad).numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("architecture", "parallel"), [("llama_tied", "full"), ("gemma2", "ddp"), ("llama", "full")])
def test_gradients_of_shared_and_tied_unembeddings_are_those_of_one_rank(architecture: str, parallel: str) -> None:
    config = RuntimeConfig(device="cpu", precision="fp32")
    expected = gradients(architecture, parallel, config)
    for got in values(run_group(2, gradients, architecture, parallel, config)):
        assert got.keys() == expected.keys()
        for name, gradient in expected.items():
            np.testing.assert_allclose(got[name], gradient, rtol=1e-5, atol=1e-5, err_msg=name)
            assert np.abs(gradient).max() > 0.01


@pytest.mark.parametrize(("architecture", "parallel"), [("llama_tied", "full"), ("gemma2", "ddp"), ("qwen3", "full")])
def test_bf16_computes_the_same_on_one_rank_and_on_two(architecture: str, parallel: str) -> None:
    config = RuntimeConfig(device="cpu", precision="bf16")
    expected = gradients(architecture, parallel, config)
    in_fp32 = gradients(architecture, parallel, RuntimeConfig(device="cpu", precision="fp32"))
    for got in values(run_group(2, gradients, architecture, parallel, config)):
        for name, gradient in expected.items():
            np.testing.assert_allclose(got[name], gradient, rtol=1e-5, atol=1e-5, err_msg=name)
    apart = [np.abs(in_fp32[name] - g).max() / np.abs(g).max() for name, g in expected.items()]
    assert np.median(apart) > 1e-3


def frozen_states(parallel: str, config: RuntimeConfig) -> NDArray[np.float32]:
    """What a frozen critic or reference is asked for."""
    with process_group(config):
        model = MTPForCausalLM.from_base(tiny_model("qwen3"), 1)
        sharding.placed_frozen(model, config.model_copy(update={"parallel": parallel}))
        with torch.no_grad(), autocast(torch.device("cpu"), config):
            return next_token_cross_entropies(model, BATCHES[1]).numpy()


@pytest.mark.parametrize("parallel", ["full", "ddp"])
def test_a_frozen_model_says_the_same_to_one_rank_and_to_each_of_two(parallel: str) -> None:
    config = RuntimeConfig(device="cpu", precision="bf16")
    expected = frozen_states("full", config)
    assert not np.array_equal(expected, frozen_states("full", RuntimeConfig(device="cpu", precision="fp32")))
    for got in values(run_group(2, frozen_states, parallel, config)):
        np.testing.assert_array_equal(got, expected)


def sent_on(architecture: str, parallel: str, adapters: bool) -> tuple[bool, dict[str, NDArray[np.float32]]]:
    """Whether this rank has no weights at first, and those that it has of the whole in the end."""
    config = RuntimeConfig(device="cpu", precision="fp32", parallel=parallel)

    def build() -> tuple[MTPForCausalLM, str]:
        assert rank() == 0
        model = MTPForCausalLM.from_base(tiny_model(architecture), 3, "random")
        return apply_lora(model, LoraSettings(r=2)) if adapters else model, "tokenizer"

    with process_group(config):
        model, companion = sharding.from_first_rank(build)
        assert companion == "tokenizer"
        empty = all(p.is_meta for p in model.parameters())
        sharding.placed(model, config)
        return empty, {name: sharding.whole_tensor(p.detach()).numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("architecture", "parallel", "adapters"), [("llama_tied", "full", True), ("gemma2", "ddp", False)]
)
def test_one_rank_builds_the_model_and_all_get_its_weights(architecture: str, parallel: str, adapters: bool) -> None:
    (builds, built), (waits, got) = values(run_group(2, sent_on, architecture, parallel, adapters))
    assert (builds, waits) == (False, True)
    assert built.keys() == got.keys()
    for name, weight in built.items():
        np.testing.assert_array_equal(got[name], weight, err_msg=name)
    one = MTPForCausalLM.from_base(tiny_model(architecture), 3, "random")
    plain = {name: p.detach().numpy() for name, p in one.named_parameters()}
    for name, weight in plain.items():
        assert any(np.array_equal(weight, found) for found in got.values()), name
