"""What one rank needs for a training step: what ranks share, counted, and what they do not, found by `footprint`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from weighted_mtp.memory.footprint import FP32, PassMemory, Weights

Parallel = Literal["full", "hybrid", "ddp"]


@dataclass(frozen=True)
class Layout:
    """How ranks share a run's memory.

    ranks, per_node  all ranks, and those of one node
    parallel         what ranks share; see `RuntimeConfig`
    microbatches     that a rank takes for one optimizer step
    on_gpu           where the optimizer updates all parameters at once, on a CPU one after the other
    """

    ranks: int
    per_node: int
    parallel: Parallel
    microbatches: int
    precision: Literal["fp32", "bf16"]
    cpu_offload: bool = False
    reduce_every_microbatch: bool = False
    on_gpu: bool = True

    @property
    def shards(self) -> int:
        """Ranks that share one copy of the parameters."""
        return {"full": self.ranks, "hybrid": self.per_node, "ddp": 1}[self.parallel]

    @property
    def gathered_bytes(self) -> int:
        """Bytes of a parameter of a layer or head while it is gathered."""
        return 2 if self.precision == "bf16" else FP32

    @property
    def keeps_gradients_whole(self) -> bool:
        """Whether a rank holds the gradients of all trained parameters, of microbatches before the last one."""
        return self.microbatches > 1 and not self.reduce_every_microbatch


@dataclass(frozen=True)
class Footprint:
    """Bytes of one rank's GPU (of its share of main memory, on a CPU), each at its largest; not all are at one time.

    parameters, evaluated  of the trained model; of critic and reference
    gathered           parameters that a rank has whole for the moment, and gradients before they are shared out
    activations        what the forward keeps for the backward
    loss               on top of them: logits of a chunk, and whatever else forward and backward need for the moment
    peak               the most at one time
    host               what CPU offload puts into main memory
    """

    parameters: float
    evaluated: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    loss: float
    peak: float
    host: float


def footprint(
    weights: Weights, passed: PassMemory, evaluated: Sequence[tuple[Weights, int]], layout: Layout
) -> Footprint:
    """One rank's memory. The peak is that of asking or of forward and backward, where gradients are never fewer than in
    the update, which is fused and needs nothing else.

    evaluated  of critic and reference: their weights and what `inference_pass` found
    """
    share, off = layout.shards, layout.cpu_offload
    trained = FP32 * weights.trained
    parameters, optimizer = FP32 * weights.total / share, 2 * trained / share
    frozen = sum(_held(held, layout) for held, _ in evaluated)
    gradients = trained if layout.keeps_gradients_whole else trained / share
    gathered = _gathered(weights, layout)
    learning = gradients + passed.most if layout.microbatches > 1 else passed.most_with_gradients(share)
    asking = max((_gathered(held, layout) * (share > 1) + most for held, most in evaluated), default=0.0)
    always = 0.0 if off else parameters + optimizer + frozen
    return Footprint(
        parameters=0.0 if off else parameters,
        evaluated=0.0 if off else frozen,
        gradients=gradients,
        optimizer=0.0 if off else optimizer,
        gathered=gathered,
        activations=passed.kept,
        loss=passed.most - passed.kept,
        peak=always + max(learning + gathered, asking),
        host=parameters + optimizer + frozen + trained / share if off else 0.0,
    )


def _held(weights: Weights, layout: Layout) -> float:
    """A frozen model's share; what is held whole is held in what it computes in, its root in fp32."""
    if layout.shards > 1:
        return FP32 * weights.total / layout.shards
    return FP32 * weights.root + layout.gathered_bytes * (weights.total - weights.root)


def _gathered(weights: Weights, layout: Layout) -> float:
    """The root's group whole; of the parts the one that computes, and if ranks share, the next and the buffer it
    arrives in; and the largest part's trained gradients, as they are computed and in the fp32 in which they travel."""
    if layout.ranks == 1:
        return 0.0
    parameter, parts = layout.gathered_bytes, 3 if layout.shards > 1 else 1
    return FP32 * weights.root + parts * parameter * weights.part + (parameter + FP32) * weights.part_trained
