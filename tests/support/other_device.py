"""A device that is none: tensors that say they are on it hold CPU values, so real values steer real control flow.

It has no fp64, as Apple's GPUs have none: a tensor of that arriving there is an error.

PyTorch's Python backend gives them a device type of their own, `gpu`, which autograd, factories and `to` know. While a
`Trace` is active, every operation is looked at as CUDA would: tensors of two devices must not meet, but for copies and
single numbers; and what CUDA would have to wait for is counted, with the line of this package that asked.

For a process of its own: there is no way to take a backend out again.
"""

import traceback
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class _Backend(_DummyBackendModule):
    """What PyTorch asks of a device type's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("gpu", _Backend())
torch.autograd.set_multithreading_enabled(False)  # modes are a thread's own
DEVICE = torch.device("gpu:0")

_COPIES = {"aten::copy_", "aten::_to_copy", "aten::to"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
_WAITING = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal"),
    *("aten::_unique2", "aten::unique_consecutive", "aten::unique_dim", "aten::repeat_interleave"),
}


class OnDevice(Tensor):
    """A tensor on the device; `held` are its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )

    def __init__(self, held: Tensor) -> None:
        if held.dtype == torch.float64:
            raise TypeError(f"fp64 on a device that has none, at {_line()}")
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, Trace.active)

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None, **_: Any) -> "OnDevice":  # type: ignore[override]
        return _from_python(data, dtype or self.dtype)

    def tolist(self) -> Any:
        if Trace.active is not None:
            Trace.active.wait("tolist")
        return self.held.tolist()


class TwoDevicesError(RuntimeError):
    """Tensors of two devices met."""


class Trace(TorchDispatchMode):
    """Counts, while it is active.

    waits     for the device: what the CPU reads of it, by kind and line
    arrivals  copies to the device, which wait for it on CUDA unless they are `non_blocking`
    """

    active: "Trace | None" = None

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.arrivals: Counter[str] = Counter()

    def __enter__(self) -> "Trace":
        Trace.active = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        Trace.active = None
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self)

    def wait(self, kind: str) -> None:
        self.waits[f"{kind} at {_line()}"] += 1


_tensor = torch.tensor


def _from_python(data: Any, dtype: torch.dtype | None) -> OnDevice:
    if Trace.active is not None:
        Trace.active.arrivals[_line()] += 1
    return OnDevice(_tensor(data, dtype=dtype))


def _tensor_of(data: Any, *, dtype: torch.dtype | None = None, device: Any = None, **more: Any) -> Tensor:
    """`torch.tensor`, which makes what it copies where no mode looks."""
    there = device is not None and torch.device(device).type == DEVICE.type
    return _from_python(data, dtype) if there else _tensor(data, dtype=dtype, device=device, **more)


torch.tensor = _tensor_of  # type: ignore[assignment]


def moved(model: nn.Module) -> nn.Module:
    """A model with its parameters and buffers on the device, in place; tied ones stay one."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for registry in (module._parameters, module._buffers):
            for name, held in registry.items():
                if held is None:
                    continue
                if id(held) not in made:
                    there = OnDevice(held.detach())
                    made[id(held)] = (
                        nn.Parameter(there, held.requires_grad) if isinstance(held, nn.Parameter) else there
                    )
                registry[name] = made[id(held)]  # type: ignore[assignment]
    return model


def _run(func: Any, args: Any, kwargs: dict[str, Any], trace: Trace | None) -> Any:
    name = func._schema.name
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, OnDevice)]
    here = [x for x in tensors if not isinstance(x, OnDevice)]
    wanted = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.device)]
    to_device = wanted[0].type == DEVICE.type if wanted else bool(there)
    if trace is not None:
        _look(trace, name, args, there, here, to_device)
    held_args, held_kwargs = (tree_map(_held, given) for given in (args, kwargs))
    result = func(*held_args, **{key: value for key, value in held_kwargs.items() if key != "pin_memory"})
    if name == "aten::_local_scalar_dense":
        return result
    originals = {id(x.held): x for x in there}
    return tree_map(lambda x: _wrapped(x, originals, to_device), result)


def _held(x: Any) -> Any:
    if isinstance(x, torch.device):
        return torch.device("cpu")
    return x.held if isinstance(x, OnDevice) else x


def _wrapped(x: Any, originals: dict[int, OnDevice], to_device: bool) -> Any:
    """A result on its device; what was changed in place is the tensor that it was before."""
    if not isinstance(x, Tensor) or isinstance(x, OnDevice):
        return x
    return originals[id(x)] if id(x) in originals else OnDevice(x) if to_device else x


def _look(trace: Trace, name: str, args: Any, there: list[OnDevice], here: list[Tensor], to_device: bool) -> None:
    """Refuse what CUDA refuses, and count what it waits for."""
    if name in _COPIES:
        target = isinstance(args[0], OnDevice) if name == "aten::copy_" else to_device
        if target and here:
            trace.arrivals[_line()] += 1
        elif there and not target:
            trace.wait("copy")
        return
    if there and name in _WAITING:
        trace.wait(name)
    if there and name in _INDEXING:
        for index in args[1]:
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                trace.wait("boolean index")
    if there and any(x.dim() > 0 for x in here):
        shapes = [(tuple(x.shape), "gpu" if isinstance(x, OnDevice) else "cpu") for x in (*there, *here)]
        raise TwoDevicesError(f"{name}: {shapes} at {_line()}")
    if here and there and all(x.dim() == 0 for x in there) and name not in _INDEXING:
        trace.wait("a number of the device meets the CPU")


def _line() -> str:
    """The line of this package that an operation comes from."""
    frames = traceback.extract_stack()
    for part in ("weighted_mtp", "transformers"):
        for frame in reversed(frames):
            if f"/{part}/" in frame.filename:
                return f"{frame.filename.rpartition(f'/{part}/')[2]}: {frame.line}"
    return "autograd"


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` by its formula: the choice of a kernel asks C++ for the device."""
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = (x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for x in (key, value))
    scores = query @ key.transpose(-1, -2) * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(~seen, -1e9)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -1e9) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


nn.functional.scaled_dot_product_attention = plain_attention  # type: ignore[assignment]
