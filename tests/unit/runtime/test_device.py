"""Where bf16 is computed: only by devices with instructions for it, unless it is asked for by name."""

import pytest
import torch

from weighted_mtp.runtime import device
from weighted_mtp.runtime.device import RuntimeConfig, autocast, pick_device

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
