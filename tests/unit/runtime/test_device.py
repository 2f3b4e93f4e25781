"""Where bf16 is computed: only by devices with instructions for it, unless it is asked for by name."""

import pytest
import torch

from weighted_mtp.errors import UserError
from weighted_mtp.runtime import device
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast, pick_device

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
