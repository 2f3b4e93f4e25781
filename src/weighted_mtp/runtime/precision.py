"""Layers and heads in bf16 when no ranks share them, computed as FSDP2's `MixedPrecisionPolicy` computes them.

Autocast by itself takes only products in bf16, and leaves the residual stream between them in fp32; FSDP2 gathers a
part's parameters in bf16 and casts its inputs, so that the stream is in bf16, too. Both ways a run would be another one
on another number of ranks. The parameters themselves stay in fp32, and so do the gradients that they add up.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map


def compute_in(parts: Sequence[nn.Module], dtype: torch.dtype) -> None:
    """Let each part compute in `dtype`: what it is given is cast, and so are its parameters while it computes.

    A part becomes of a subclass of its class, as in FSDP2, so that activation checkpointing, which transformers wraps
    around a layer class' `forward`, computes the casts again with everything else.
    """
    for part in parts:
        part.__dict__["_itself"] = _Itself(part, type(part).forward)
        part.__class__ = _casting(type(part), dtype)  # type: ignore[arg-type]


class _Itself(nn.Module):
    """A part and the forward of its class, so that `functional_call` replaces its parameters and nothing else."""

    def __init__(self, part: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.part = part
        self.own = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.own(self.part, *args, **kwargs)


@cache
def _casting(layer: type[nn.Module], dtype: torch.dtype) -> type[nn.Module]:
    def cast(x: Any) -> Any:
        """As a view if nothing is cast: a part's gradients are added up before they are added to other parts', as in
        FSDP2, since sums of bf16 depend on their order."""
        if not isinstance(x, Tensor):
            return x
        return x.to(dtype) if x.is_floating_point() and x.dtype != dtype else x.view_as(x)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        itself = self._itself
        parameters = {name: p.to(dtype) for name, p in itself.named_parameters() if p.is_floating_point()}
        return functional_call(itself, parameters, tree_map(cast, args), tree_map(cast, kwargs))

    return type(layer.__name__, (layer,), {"forward": forward})
