"""Where bf16 is computed: only by devices with instructions for it, unless it is asked for by name."""

import platform
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from weighted_mtp.errors import UserError
from weighted_mtp.runtime import device
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast, in_bf16, pick_device, release_memory, widest
from weighted_mtp.runtime.distributed import process_group

CPU = torch.device("cpu")


def product(precision: str) -> torch.dtype:
    """What a matrix product comes out as."""
    with autocast(CPU, RuntimeConfig(precision=precision)):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.parametrize(("name", "expected"), [("amx_bf16", torch.bfloat16), ("avx2", torch.float32)])
def test_auto_takes_bf16_where_the_cpu_has_it(monkeypatch, name, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True, "avx512_bf16": False})
    assert product("auto") == expected


def test_what_is_asked_for_by_name_is_what_is_computed(monkeypatch):
    monkeypatch.setattr(device, "has_bf16", lambda _device: False)
    assert (product("bf16"), product("fp32")) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("arguments", ["positional", "named"])
def test_bf16_takes_attention_and_its_gradient_in_fp32(arguments):
    q, k, v = (torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(3))
    q.requires_grad_()
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*wide, is_causal=True)
    with autocast(CPU, RuntimeConfig(precision="bf16")):
        given = {"query": q, "key": k, "value": v} if arguments == "named" else {}
        found = F.scaled_dot_product_attention(*(() if given else (q, k, v)), **given, is_causal=True)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())
    grads = (
        torch.autograd.grad(out.float().square().sum(), of)[0]
        for out, of in ((found, q), (expected.bfloat16(), wide[0]))
    )
    assert torch.equal(next(grads), next(grads).bfloat16())
    with torch.no_grad(), autocast(CPU, RuntimeConfig(precision="bf16")):
        assert (q @ k.mT).dtype == F.scaled_dot_product_attention(q, k, v).dtype == torch.bfloat16


def test_slow_bf16_is_told_of(monkeypatch, capsys):
    monkeypatch.setattr(device, "has_bf16", lambda _device: False)
    device._warn_of_slow_bf16.cache_clear()
    pick_device(RuntimeConfig(precision="bf16"))
    pick_device(RuntimeConfig(precision="bf16"))
    assert capsys.readouterr().err.count("runtime.precision=auto") == 1


def test_a_gpu_that_pytorch_cannot_use_is_told_of_once(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "GPU_FILES", (tmp_path / "nvidia0",))
    device._say_unused_gpu.cache_clear()
    assert pick_device(RuntimeConfig()) == CPU
    assert capsys.readouterr().err == ""
    (tmp_path / "nvidia0").touch()
    for _ in range(2):
        assert pick_device(RuntimeConfig()) == CPU
        assert pick_device(RuntimeConfig(device="cpu")) == CPU
    assert capsys.readouterr().err.count("computing on the CPU (this machine has a GPU") == 1
    with pytest.raises(UserError, match="this machine has a GPU"):
        pick_device(RuntimeConfig(device="cuda"))


@pytest.fixture
def on_apple(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if PyTorch saw a GPU of Apple's, on a CPU with bf16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True})


def test_apples_gpu_is_taken_where_it_is_there_but_not_by_several_ranks(on_apple, monkeypatch):
    assert pick_device(RuntimeConfig()).type == "mps"
    assert pick_device(RuntimeConfig(device="cpu")) == CPU
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert pick_device(RuntimeConfig()) == CPU
    monkeypatch.setenv("LOCAL_RANK", "0")
    with (
        pytest.raises(UserError, match=r"runtime\.device=mps is one GPU"),
        process_group(RuntimeConfig(device="mps")),
    ):
        pass


def test_on_apples_gpu_auto_is_fp32_and_sums_are_too(on_apple):
    mps = torch.device("mps")
    assert not in_bf16(mps, RuntimeConfig())
    assert in_bf16(mps, RuntimeConfig(precision="bf16"))
    assert (widest(mps), widest(CPU)) == (torch.float32, torch.float64)


def test_apples_gpu_where_there_is_none_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"runtime\.device is mps"):
        pick_device(RuntimeConfig(device="mps"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps less, or cannot be told")
def test_what_was_freed_is_given_back():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    torch.ones(2**22)  # 16 MiB: from now on smaller blocks come from the heap
    blocks = [torch.ones(2**18) for _ in range(256)]
    last = torch.ones(2**18)  # keeps the heap from shrinking by itself
    del blocks
    before = resident()
    release_memory()
    assert before - resident() > 128 * 2**20
    assert last.sum() == 2**18
