"""The `runtime:` section."""

from typing import Literal

from pydantic import Field

from weighted_mtp.section import Section


class RuntimeConfig(Section):
    """The machine's part of a run."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where tensors lie; `auto` is a GPU if there is one. `mps` is Apple's GPU, for one rank only."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Under `bf16` layers and heads compute in it, the residual stream between them included, on one rank as on
    several; parameters, optimizer, losses, embeddings and final norm stay in fp32, and of the unembedding only products
    are in bf16 (autocast).

    `auto` is `bf16` if the device has instructions for it: a CPU without them is a hundred times slower in bf16. On
    `mps`, where only some generations have them, it is `fp32`.
    """
    threads: int | None = Field(None, ge=1, le=4096)
    """CPU threads; PyTorch's own choice if not given."""
    parallel: Literal["full", "hybrid", "ddp"] = "full"
    """What each of several ranks holds: a share of all parameters, gradients and optimizer states (`full`), the same
    within its node while nodes hold copies (`hybrid`), or all of them (`ddp`). One rank holds everything."""
    activation_checkpointing: bool | Literal["selective"] = False
    """Keep only the layers' inputs and recompute the rest in the backward pass: less memory, a third more computation.
    `selective` also keeps what matrix products and fused attention return, and recomputes only what is cheap."""
    compile: bool = False
    """Compile layers and heads with `torch.compile`, those of critics and references too. The first steps take a minute
    or more, later ones are faster. Needs a C++ compiler; results differ by rounding."""
    cpu_offload: bool = False
    """Keep a GPU's share of parameters, gradients and optimizer states in main memory; with several ranks."""
    reduce_every_microbatch: bool = False
    """Add gradients up over ranks after every microbatch, not once per step: more communication, but no rank ever holds
    the gradients of all trained parameters."""
    timeout_seconds: int = Field(600, ge=1, le=365 * 24 * 3600)
    """How long a rank waits for the others before it gives up."""
