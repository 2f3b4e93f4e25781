"""A model put where it is trained, by one rank: checkpointing, compilation, and options without effect."""

import shutil
from collections.abc import Sequence

import pytest
import torch
from tiny_models import padded_batch, tiny_model
from torch import Tensor
from torch._dynamo.utils import counters

from weighted_mtp.errors import UserError
from weighted_mtp.memory.footprint import MemoryCounter
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast
from weighted_mtp.runtime.sharding import placed


def gradients_and_calls(architecture: str, config: RuntimeConfig) -> tuple[Sequence[Tensor], int, int]:
    """Gradients of some loss of all heads, how often a layer or head was computed for them, and the bytes that backward
    found of the forward."""
    model = MTPForCausalLM.from_base(tiny_model(architecture), 3, "random").train()
    placed(model, config)
    calls: list[int] = []
    for part in model.parts_to_gather():
        part.self_attn.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr, operator]
    with autocast(torch.device("cpu"), config), MemoryCounter([*model.parameters()]) as counter:
        loss = model.unembed(model.head_states(*padded_batch())).float().square().mean()
        kept = counter.now
    loss.backward()
    return [p.grad for p in model.parameters() if p.grad is not None], len(calls), kept


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["llama_tied", "gemma2"])
def test_activation_checkpointing_computes_every_layer_twice_and_the_same_gradients(
    architecture: str, precision: str
) -> None:
    config = RuntimeConfig(device="cpu", precision=precision)
    expected, once, everything = gradients_and_calls(architecture, config)
    kept = [everything]
    for checkpointing in ("selective", True):
        chosen = config.model_copy(update={"activation_checkpointing": checkpointing})
        got, twice, bytes_kept = gradients_and_calls(architecture, chosen)
        kept.append(bytes_kept)
        assert (once, twice) == (5, 10)
        for a, b in zip(expected, got, strict=True):
            assert torch.equal(a, b)
    assert kept == sorted(set(kept), reverse=True)


def test_offloading_without_several_gpus_is_refused() -> None:
    with pytest.raises(UserError, match=r"runtime.cpu_offload=true has no effect on cpu with 1 rank"):
        placed(tiny_model(), RuntimeConfig(device="cpu", cpu_offload=True))


@pytest.mark.filterwarnings("ignore")  # of the compiler's own code
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("checkpointing", [False, "selective"])
def test_compiled_layers_give_the_same_gradients(checkpointing: bool | str) -> None:
    def gradients(**options: object) -> list[Tensor]:
        config = RuntimeConfig(device="cpu", precision="fp32", activation_checkpointing=checkpointing, **options)
        model = MTPForCausalLM.from_base(tiny_model(), 2, "random").train()
        placed(model, config)
        model.unembed(model.head_states(*padded_batch())).square().mean().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    counters["frames"].clear()
    for expected, got in zip(gradients(), gradients(compile=True), strict=True):
        assert torch.allclose(expected, got, rtol=1e-3, atol=1e-6)
    assert counters["frames"]["ok"] > 0


def test_compiling_without_a_compiler_or_with_what_it_cannot_do_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    both = RuntimeConfig(device="cpu", precision="bf16", compile=True, activation_checkpointing="selective")
    with pytest.raises(UserError, match=r"activation_checkpointing=selective does not work with runtime.compile"):
        placed(MTPForCausalLM.from_base(tiny_model(), 2).train(), both)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"runtime.compile=true needs a C\+\+ compiler"):
        placed(MTPForCausalLM.from_base(tiny_model(), 2).train(), RuntimeConfig(device="cpu", compile=True))
