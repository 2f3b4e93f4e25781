"""Layers and heads in bf16 when no ranks share them, computed as FSDP2's `MixedPrecisionPolicy` computes them.

Autocast by itself takes only products in bf16, and leaves the residual stream between them in fp32; FSDP2 gathers a
part's parameters in bf16 and casts its inputs, so that the stream is in bf16, too. Both ways a run would be another one
on another number of ranks. The parameters themselves stay in fp32, and so do the gradients that they add up.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def compute_in(parts: Sequence[nn.Module], dtype: torch.dtype) -> None:
    """Let each part compute in `dtype`: what it is given is cast, and so is each parameter while its module computes.

    Activation checkpointing calls a part's forward again in backward, without the part's own hooks but with those of
    the modules in it.
    """
    for part in parts:
        part.register_forward_pre_hook(_InputCast(dtype), with_kwargs=True)
        for module in part.modules():
            if any(True for _ in module.parameters(recurse=False)):
                casting = _ParameterCast(dtype)
                module.register_forward_pre_hook(casting.before)
                module.register_forward_hook(casting.after, always_call=True)


class _InputCast:
    """What a part is given, as a view if nothing is cast: a part's gradients are added up before they are added to
    other parts', as in FSDP2, since sums of bf16 depend on their order."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, _part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return tree_map(self._cast, args), tree_map(self._cast, kwargs)

    def _cast(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return x.to(self.dtype) if x.is_floating_point() and x.dtype != self.dtype else x.view_as(x)


class _ParameterCast:
    """The parameters of one module, and those that stand in their places while it computes."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.replaced: dict[str, nn.Parameter] = {}

    def before(self, module: nn.Module, _args: object) -> None:
        parameters: dict[str, Any] = module._parameters
        others = {name: p for name, p in parameters.items() if p is not None and p.dtype != self.dtype}
        self.replaced = {name: p for name, p in others.items() if p.is_floating_point()}
        parameters.update({name: p.to(self.dtype) for name, p in self.replaced.items()})

    def after(self, module: nn.Module, *_: object) -> None:
        module._parameters.update(self.replaced)
        self.replaced = {}
