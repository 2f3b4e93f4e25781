"""A model built by one rank, spread over all (FSDP2, `fully_shard`), and gathered again to be written.

Only the first rank holds the whole model while it is built. The others get its shapes, and then its weights part by
part, of which they keep their share before the next one comes.

Every part that a model names in `parts_to_gather` (its layers and heads) is a group of its own: its parameters are
gathered before it computes and freed after. What is left (embeddings, final norm, unembedding or value head) is the
root's group, which stays gathered from a pass' begin to the end of its backward. So the loss may use the unembedding
outside of any module's forward and take gradients of its parameters itself: they are whole tensors then, what is
added to their gradients is reduced with all others when the backward ends, and tied embeddings are one parameter of one
group.
"""

import copy
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from weighted_mtp.errors import UserError
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast, in_bf16, pick_device, recomputing, selectively
from weighted_mtp.runtime.distributed import by_first_rank, is_first, ranks
from weighted_mtp.runtime.precision import compute_in


class Shardable(Protocol):
    """What a model says of itself to be spread over ranks."""

    forward_methods: ClassVar[tuple[str, ...]]
    """Methods beside `forward` that compute with the model's parameters."""

    def parts_to_gather(self) -> Sequence[nn.Module]:
        """Modules without common parameters, whose parameters are needed one after the other."""
        ...


WholeModel = Callable[[], PreTrainedModel | None]
"""The trained model in one piece, on the first rank; None on the others. All ranks must call it."""

Model = TypeVar("Model", bound=PreTrainedModel)
Companion = TypeVar("Companion")


def from_first_rank(build: Callable[[], tuple[Model, Companion]]) -> tuple[Model, Companion]:
    """What `build` gives, called only by the first rank: a model, and what goes with it (its tokenizer).

    On the other ranks the model's parameters are shapes without memory, until `placed` or `placed_frozen` brings the
    weights. Where `build` fails, this fails on every rank.
    """
    built: list[tuple[Model, Companion]] = []

    def first() -> tuple[Model, Companion]:
        built.append(build())
        model, companion = built[0]
        return (model if ranks() == 1 else _without_weights(model)), companion

    on_meta = by_first_rank(first)
    return built[0] if built else on_meta


def placed(model: PreTrainedModel, config: RuntimeConfig) -> WholeModel:
    """Put a model on its device, in place, and with several ranks shard it over them.

    Its parameters are other objects afterwards: optimizers are built after this. Raises UserError for options that
    have no effect here.
    """
    device = pick_device(config)
    if config.cpu_offload and (device.type == "cpu" or ranks() == 1):
        raise UserError(
            f"runtime.cpu_offload=true has no effect on {device.type} with {ranks()} rank(s): "
            "it empties the memory of several GPUs; leave it out"
        )
    if config.activation_checkpointing and any(p.requires_grad for p in model.parameters()):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=_recompute(device, config))
    if ranks() == 1:
        model.to(device)  # type: ignore[arg-type]
        if (dtype := _in_parts(device, config)) is not None:
            compute_in(cast(Shardable, model).parts_to_gather(), dtype)
        _compile(model, config)
        return lambda: model
    empty = _without_weights(model) if is_first() else None
    shard(model, _mesh(device, config.parallel), config, CPUOffloadPolicy() if config.cpu_offload else OffloadPolicy())
    _compile(model, config)

    def whole() -> PreTrainedModel | None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(model, options=options)
        if empty is None:
            return None
        gathered = copy.deepcopy(empty)
        gathered.load_state_dict(weights, assign=True)
        gathered.tie_weights()
        return gathered

    return whole


def placed_frozen(model: PreTrainedModel, config: RuntimeConfig) -> None:
    """The same for a model that is only evaluated, in eval mode; under `ddp` every rank holds all of it.

    What is held whole, and computes in bf16, is held in bf16.
    """
    model.eval().requires_grad_(False)
    if ranks() == 1 or config.parallel == "ddp":
        device = pick_device(config)
        _receive(model.parameters(), device)
        model.to(device)  # type: ignore[arg-type]
        if (dtype := _in_parts(device, config)) is not None:
            parts = cast(Shardable, model).parts_to_gather()
            for parameter in (p for part in parts for p in part.parameters()):
                parameter.data = parameter.data.to(dtype)
            compute_in(parts, dtype)
        _compile(model, config)
    else:
        placed(model, config)


def _recompute(device: torch.device, config: RuntimeConfig) -> dict[str, Any]:
    """Arguments of `torch.utils.checkpoint`. UserError for what does not work together."""
    which = config.activation_checkpointing
    if config.compile and which == "selective" and device.type == "cpu" and in_bf16(device, config):
        raise UserError(
            "runtime.activation_checkpointing=selective does not work with runtime.compile=true in bf16 on a CPU, "
            "whose attention is another one in backward: set it to true, or runtime.precision=fp32"
        )
    arguments: dict[str, Any] = {"use_reentrant": False}
    if not config.compile:
        arguments["context_fn"] = lambda: recomputing(autocast(device, config), which)
    elif which == "selective":
        arguments["context_fn"] = selectively
    return arguments


def _compile(model: PreTrainedModel, config: RuntimeConfig) -> None:
    """Compile what each part computes, its casts included. Hooks, such as FSDP2's, stay outside; parts of one class
    share what was compiled. UserError if there is no compiler."""
    if not config.compile:
        return
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise UserError(
            "runtime.compile=true needs a C++ compiler and finds no g++ or clang++: install one, or leave it out"
        )
    for part in cast(Shardable, model).parts_to_gather():
        part.forward = torch.compile(part.forward, dynamic=True)


def shard(model: Any, mesh: DeviceMesh, config: RuntimeConfig, offload: OffloadPolicy) -> None:
    """`fully_shard` of a `Shardable`, its parts and then the rest, whose gradients are *summed* over ranks, in fp32.

    The weights are the first rank's; those that the others have, if any, are dropped.

    Under `bf16` the parts' parameters travel and compute in bf16. The root's stay in fp32, and autocast takes their
    products in bf16: the unembedding adds up the gradients of all heads and chunks.
    """
    device = pick_device(config)
    in_parts = _in_parts(device, config)
    for part in model.parts_to_gather():
        policy = MixedPrecisionPolicy(param_dtype=in_parts, reduce_dtype=torch.float32)
        _receive(part.parameters(), device)
        fully_shard(part, mesh=mesh, mp_policy=policy, offload_policy=offload)
    # What no part took (embeddings, final norm, unembedding) is the root's group, gathered for the whole pass.
    _receive((p for p in model.parameters() if not isinstance(p, DTensor)), device)
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32), offload_policy=offload)
    for name in model.forward_methods:
        register_fsdp_forward_method(model, name)
    # FSDP2 would average over ranks; the loop divides once, by the count of all microbatches and ranks.
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)


def _in_parts(device: torch.device, config: RuntimeConfig) -> torch.dtype | None:
    """What layers and heads compute in; None for what they are stored in."""
    return torch.bfloat16 if in_bf16(device, config) else None


def reduce_gradients(model: nn.Module, now: bool) -> None:
    """Whether the next backward adds gradients up over ranks, or only to this rank's own."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)


def free_root(model: nn.Module) -> None:
    """Free what a pass without backward leaves gathered."""
    if isinstance(model, FSDPModule):
        model.reshard()


def whole_tensor(x: Tensor) -> Tensor:
    """A tensor that may be spread over ranks, in one piece on each; all ranks must call it."""
    return x.full_tensor() if isinstance(x, DTensor) else x


@cache
def _mesh(device: torch.device, parallel: str) -> DeviceMesh:
    """Shards over all ranks; over a node's, with copies on the other nodes; or over one, with copies on all others."""
    if parallel == "full":
        return init_device_mesh(device.type, (ranks(),), mesh_dim_names=("shard",))
    within = 1 if parallel == "ddp" else int(os.environ["LOCAL_WORLD_SIZE"])
    if parallel == "hybrid" and not 1 < within < ranks():
        raise UserError(
            f"runtime.parallel=hybrid shards within nodes, but of {ranks()} ranks {within} are on this one: "
            "use several nodes of several ranks each, or runtime.parallel=full"
        )
    return init_device_mesh(device.type, (ranks() // within, within), mesh_dim_names=("copy", "shard"))


def _receive(parameters: Iterable[nn.Parameter], device: torch.device) -> None:
    """Put the first rank's values of some parameters on every rank's device; in place, so that tied ones stay one."""
    if ranks() == 1:
        return
    for parameter in parameters:
        if is_first():
            parameter.data = parameter.data.to(device)
        else:
            empty = torch.empty_like(parameter, device=device)
            torch.utils.swap_tensors(parameter, nn.Parameter(empty, parameter.requires_grad))
        dist.broadcast(parameter.data, src=0)


def _without_weights(model: Model) -> Model:
    """A copy of the model in which every parameter is a shape without memory, tied ones still one."""
    on_meta = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, on_meta)
