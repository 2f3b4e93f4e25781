"""The memory that a training run needs on every GPU, before there is one: for each way to share it.

    uv run wmtp plan --config configs/production/verifiable.yaml --gpus 4
    … --override model.lora=null --override data.max_tokens=8192 --nodes 2

No weights, data or GPU are needed: models are built of shapes, and one microbatch is passed through them.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from transformers import PreTrainedModel

from weighted_mtp.errors import UserError
from weighted_mtp.memory.configured import Planned
from weighted_mtp.memory.footprint import PassMemory, Weights, inference_pass, on_meta, training_pass, weights_of
from weighted_mtp.memory.layout import Layout, footprint
from weighted_mtp.memory.table import PlanRow
from weighted_mtp.models.mtp import MTPForCausalLM, takes_heads
from weighted_mtp.progress import progress
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast, in_bf16, recomputing
from weighted_mtp.runtime.precision import compute_in
from weighted_mtp.runtime.sharding import Shardable


@dataclass(frozen=True)
class Machine:
    """What a run is planned for."""

    gpus: int
    nodes: int = 1

    @property
    def ranks(self) -> int:
        return self.gpus * self.nodes


def layout_of(run: Planned, machine: Machine) -> Layout:
    """How the ranks share the run as it is configured. Raises UserError if they cannot."""
    runtime, accumulation = run.config.runtime, run.config.training.gradient_accumulation
    if accumulation % machine.ranks:
        raise UserError(
            f"training.gradient_accumulation={accumulation} microbatches of a step cannot be shared evenly by "
            f"{machine.ranks} ranks: set it to a multiple of {machine.ranks}"
        )
    return Layout(
        ranks=machine.ranks,
        per_node=machine.gpus,
        parallel=runtime.parallel,
        microbatches=accumulation // machine.ranks,
        precision="bf16" if _in_bf16(runtime) else "fp32",
        cpu_offload=runtime.cpu_offload,
        reduce_every_microbatch=runtime.reduce_every_microbatch,
        on_gpu=runtime.device != "cpu",
    )


def _in_bf16(runtime: RuntimeConfig) -> bool:
    """Whether products are taken in bf16: `auto` is a matter of the CPU, and any GPU of today has it."""
    on_gpu = runtime.precision == "auto" and runtime.device != "cpu"
    return on_gpu or in_bf16(torch.device("cpu"), runtime)


def _layouts(configured: Layout) -> list[Layout]:
    """The configured one, and the other ways to share."""
    ways = [configured]
    if configured.ranks > 1:
        ways += [replace(configured, parallel=name, cpu_offload=False) for name in ("full", "ddp")]
        if configured.on_gpu:
            ways.append(replace(configured, parallel="full", cpu_offload=True))
    if 1 < configured.per_node < configured.ranks:
        ways.append(replace(configured, parallel="hybrid", cpu_offload=False))
    return list(dict.fromkeys(ways))


def plan(run: Planned, machine: Machine) -> list[PlanRow]:
    """One rank's memory in every way to share it, with activation checkpointing and without; the configured one first.

    Raises UserError if the ranks cannot share a step.
    """
    configured, checkpointing = layout_of(run, machine), run.config.runtime.activation_checkpointing
    rows = []
    with progress("passing a microbatch through", 2 + len(run.evaluated)) as advance:
        evaluated = [_evaluated(run, name, configured) for name in run.evaluated]
        advance(len(evaluated))
        for recompute in (checkpointing, not checkpointing):
            weights, passed = trained_pass(run, recompute, configured)
            advance(1)
            rows += [
                PlanRow(way, recompute, footprint(weights, passed, evaluated, way)) for way in _layouts(configured)
            ]
    return rows


def trained_pass(
    run: Planned,
    recompute: bool | Literal["selective"],
    layout: Layout,
    within: AbstractContextManager[object] = nullcontext(),  # noqa: B008 # it holds nothing
) -> tuple[Weights, PassMemory]:
    """One microbatch through the trained model, forward and backward, in shapes alone.

    within  a dispatch mode that is to see the pass' operations, and no others
    """
    with torch.device("meta"):
        model = run.trained()
    if recompute:
        again = {"use_reentrant": False, "context_fn": lambda: recomputing(_precision(layout), recompute)}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=again)
    refusing = takes_heads(model) if isinstance(model, MTPForCausalLM) else nullcontext()
    with _hollow(model, layout, is_gathered=layout.ranks > 1), refusing, within:
        passed = training_pass(model, run.batch, lambda: _precision(layout), run.detach_extra_heads)
    return weights_of(model), passed


def _evaluated(run: Planned, name: str, layout: Layout) -> tuple[Weights, int]:
    with torch.device("meta"):
        model = run.evaluated[name]().requires_grad_(False)
    with _hollow(model, layout, is_gathered=True):
        most = inference_pass(model, run.batch, lambda: _precision(layout))
    return weights_of(model), most


def _hollow(model: PreTrainedModel, layout: Layout, is_gathered: bool) -> AbstractContextManager[PreTrainedModel]:
    """The model as it computes: under `bf16` its parts in it, cast if they are not gathered in it."""
    casts = layout.precision == "bf16"
    if casts:
        compute_in(cast(Shardable, model).parts_to_gather(), torch.bfloat16)
    return on_meta(model, torch.bfloat16 if casts and is_gathered else torch.float32)


def _precision(layout: Layout) -> AbstractContextManager[object]:
    """The context of a forward pass. Shapes are those of CPU tensors; a GPU's attention needs what a CPU's fp32 one
    does, not what its bf16 one does."""
    if layout.on_gpu and layout.precision == "bf16":
        return torch.autocast("cpu", torch.bfloat16)
    return autocast(torch.device("cpu"), RuntimeConfig(precision=layout.precision))
