"""Where and how tensors are computed: device, autocast, threads; and how a run is spread over ranks."""

import contextlib
import ctypes
import functools
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from weighted_mtp.errors import UserError
from weighted_mtp.progress import console
from weighted_mtp.runtime.config import RuntimeConfig


def pick_device(config: RuntimeConfig) -> torch.device:
    """The device to run on. Raises `UserError` for a GPU on a machine without one."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"runtime.device is cuda, but PyTorch sees no CUDA device here{why_no_cuda()}: use runtime.device=auto or "
            "cpu"
        )
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            f"runtime.device is mps, but PyTorch {torch.__version__} sees no GPU of Apple's here: use "
            "runtime.device=auto or cpu"
        )
    device = torch.device(_best_device() if config.device == "auto" else config.device)
    if config.device == "auto" and device.type == "cpu" and (why := why_no_cuda()):
        _say_unused_gpu(why)
    if config.precision == "bf16" and device.type == "cpu" and not has_bf16(device):
        _warn_of_slow_bf16()
    return device


def _best_device() -> str:
    """The fastest that there is; several ranks cannot share the one GPU of Apple's."""
    if torch.cuda.is_available():
        return "cuda"
    is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return "mps" if is_alone and torch.backends.mps.is_available() else "cpu"


def release_memory() -> None:
    """Give back what is not used any more, between pieces of work that need memory at different times.

    glibc keeps what is freed in blocks below 32 MiB, most of what a training run takes, until it is told.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}
"""Those of linear layers. Attention's own (`bmm`), where it is not fused, return T × T scores: too large to keep."""

GPU_FILES = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
"""There on a machine with a GPU and its driver, also where PyTorch cannot use it."""


def why_no_cuda() -> str:
    """What to look at if there is a GPU that PyTorch cannot use; "" if there is none."""
    if not any(file.exists() for file in GPU_FILES):
        return ""
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return f" (this machine has a GPU, and PyTorch {torch.__version__} is {built}: compare the driver in `nvidia-smi`)"


@functools.cache
def _say_unused_gpu(why: str) -> None:
    """Once per process."""
    console.print(f"runtime.device=auto: computing on the CPU{why}", highlight=False, soft_wrap=True)


@functools.cache
def _warn_of_slow_bf16() -> None:
    """Once per process."""
    console.print(
        "runtime.precision=bf16: this machine has no bf16 instructions, and fp32 is many times faster here; "
        "runtime.precision=auto chooses"
    )


def autocast(device: torch.device, config: RuntimeConfig) -> AbstractContextManager[object]:
    """The context in which forward passes run."""
    if not in_bf16(device, config):
        return contextlib.nullcontext()
    if device.type == "cpu":
        return _bf16_on_cpu()
    return torch.autocast(device.type, torch.bfloat16)


def in_bf16(device: torch.device, config: RuntimeConfig) -> bool:
    """Whether matrix products are taken in bf16."""
    return config.precision == "bf16" or (config.precision == "auto" and has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices by instructions of its own: x86's avx512_bf16 or amx_bf16, Arm's."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


WITHOUT_FP64 = {"mps"}
"""Kinds of devices that have no fp64."""


def widest(device: torch.device) -> torch.dtype:
    """What sums over many tokens are kept in: fp64 where the device has it."""
    return torch.float32 if device.type in WITHOUT_FP64 else torch.float64


def widened(x: torch.Tensor) -> torch.Tensor:
    """`x` in the `widest` precision of its device."""
    return x.to(widest(x.device))


Contexts = tuple[AbstractContextManager[object], AbstractContextManager[object]]


def recomputing(again: AbstractContextManager[object], checkpointing: bool | Literal["selective"]) -> Contexts:
    """Contexts of a checkpointed layer's forward, and of its second forward, which backward runs outside of the first
    one's.

    again  the precision of the second; the first is within it anyway
    """
    if checkpointing != "selective":
        return contextlib.nullcontext(), again
    keeping, kept = selectively()
    return keeping, _both(again, kept)


def selectively() -> Contexts:
    """The same for a compiled layer, whose second forward is compiled with the precision of the first."""
    return create_selective_checkpoint_contexts(_what_to_keep)


def _what_to_keep(_: object, operation: Any, *_args: object, **_kwargs: object) -> CheckpointPolicy:
    dear = operation in _PRODUCTS or "scaled_dot_product" in str(operation)
    return CheckpointPolicy.MUST_SAVE if dear else CheckpointPolicy.PREFER_RECOMPUTE


@contextlib.contextmanager
def _both(outer: AbstractContextManager[object], inner: AbstractContextManager[object]) -> Iterator[None]:
    with outer, inner:
        yield


class _AttentionInFp32(TorchFunctionMode):
    """Lets `scaled_dot_product_attention` compute in fp32 and return bf16, as autocast would have it return."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(torch.Tensor, _in_fp32, (args, kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(*args, **kwargs).to(torch.bfloat16)


def _in_fp32(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.is_floating_point() else x


@contextlib.contextmanager
def _bf16_on_cpu() -> Iterator[None]:
    """bf16, but attention in fp32 where it has a gradient: in bf16 that gradient takes PyTorch 2.13 five times as long
    where texts are short, and products alone twice as long or, where texts are long, four times.
    """
    attention = _AttentionInFp32() if torch.is_grad_enabled() else contextlib.nullcontext()
    with torch.autocast("cpu", torch.bfloat16), attention:
        yield
