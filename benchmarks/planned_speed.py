"""What share of a GPU's peak a training step's microbatch would reach: counted from its operations, never timed.

    python benchmarks/planned_speed.py [CONFIG] [--override a.b=value …] [--gpus 4]

The microbatch is passed through a model of shapes, as `wmtp plan` does. Each operation is taken to last as long as its
arithmetic or its memory traffic does, whichever is more: products at `--products` and attention at `--attention`
FLOP/s, everything else by the bytes of what it reads and writes at `--bytes` per second. The defaults are what an H200
is known to reach, so they are assumptions. A row is one activation checkpointing of the same run.
The share is the method's own arithmetic (`measured.training_flops`) over that time at `--peak` FLOP/s.

Not counted: what ranks send to each other, the optimizer, launches (a GPU is taken to be busy), and kernels that a
compiler would fuse. The table is printed and written to benchmarks/results/planned_speed.md.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import torch
from measured import training_flops
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from weighted_mtp.configurations import find
from weighted_mtp.memory.configured import Planned, planned
from weighted_mtp.memory.plan import Machine, layout_of, trained_pass

RESULTS = Path(__file__).parent / "results" / "planned_speed.md"
CHECKPOINTING: tuple[bool | Literal["selective"], ...] = (False, "selective", True)
FREE = {"detach", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_local_scalar_dense"}
# Of the tensor that these look or write into, they touch what the others say.
PARTIAL = {"index_select", "gather", "index_copy_", "scatter_add_", "scatter_", "embedding"}
KINDS = ("products", "attention", "the rest")


class Work(TorchDispatchMode):
    """How many kernels there are, and the seconds of each kind.

    rates  FLOP/s of products and of attention, bytes/s of the rest
    """

    def __init__(self, rates: dict[str, float]) -> None:
        super().__init__()
        self._rates = rates
        self.seconds: dict[str, float] = defaultdict(float)
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        read, written = _tensors((args, kwargs)), _tensors(result)
        storages = {t.untyped_storage()._cdata for t in read}
        is_view = not func._schema.is_mutable and all(t.untyped_storage()._cdata in storages for t in written)
        if name not in FREE and written and not is_view:
            kind, flops = _arithmetic(name, func, args, kwargs or {}, result)
            moved = sum(_bytes(read)) + sum(_bytes(written))
            if name in PARTIAL:
                moved = 2 * (max(_bytes(read)[1:]) if name.endswith("_") else sum(_bytes(written)))
            self.kernels += 1
            self.seconds[kind] += max(flops / self._rates[kind], moved / self._rates["the rest"])
        return result


def _arithmetic(name: str, func: Any, args: Any, kwargs: Any, result: Any) -> tuple[str, float]:
    """An operation's kind and its FLOPs."""
    if "scaled_dot_product" in name:
        return "attention", _of_attention(args, "backward" in name)
    count = flop_registry.get(func.overloadpacket)
    return ("products", count(*args, **kwargs, out_val=result)) if count else ("the rest", 0.0)


def _bytes(tensors: list[Tensor]) -> list[int]:
    return [t.numel() * t.element_size() for t in tensors]


def _tensors(tree: Any) -> list[Tensor]:
    """Each once."""
    return list({id(x): x for x in tree_leaves(tree) if isinstance(x, Tensor)}.values())


def _of_attention(args: Any, backward: bool) -> float:
    """Two products of (T, T, C) a head, half of them causal; backward, with the scores made again, five."""
    query = args[1] if backward else args[0]
    batch, heads, length, channels = query.shape
    return (2.5 if backward else 1.0) * 2 * batch * heads * length**2 * channels


def row(run: Planned, machine: Machine, checkpointing: bool | Literal["selective"], flops: float, options: Any) -> str:
    """The table's line for one activation checkpointing."""
    work = Work({"products": options.products, "attention": options.attention, "the rest": options.bytes})
    trained_pass(run, checkpointing, layout_of(run, machine), work)
    seconds = sum(work.seconds.values())
    cells = [
        str(checkpointing).lower(),
        *(f"{1e3 * work.seconds[kind]:,.0f}" for kind in KINDS),
        f"{work.kernels:,}",
        f"{run.batch.rows * run.batch.length / seconds:,.0f}",
        f"{flops / seconds / options.peak:.0%}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="production/baseline")
    parser.add_argument("--override", action="append", default=[])
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--products", type=float, default=650e12)
    parser.add_argument("--attention", type=float, default=350e12)
    parser.add_argument("--bytes", type=float, default=3.6e12)
    parser.add_argument("--peak", type=float, default=989e12)
    options = parser.parse_args()
    run, machine = planned(find(Path(options.config)), tuple(options.override)), Machine(options.gpus)
    with torch.device("meta"):
        flops = training_flops(run.trained(), run.batch.rows, run.batch.length)
    rates = {name: getattr(options, name) / 1e12 for name in ("products", "attention", "bytes", "peak")}
    lines = [
        f"{' '.join([options.config, *options.override])}: {run.batch.rows} × {run.batch.length} tokens a GPU, "
        f"{options.gpus} GPUs; products at {rates['products']:g} TFLOP/s, attention at {rates['attention']:g}, "
        f"the rest at {rates['bytes']:g} TB/s; share of {rates['peak']:g} TFLOP/s",
        "",
        "| checkpointing | " + " | ".join(f"{kind}, ms" for kind in KINDS) + " | kernels | tokens/s a GPU | share |",
        "|---|---|---|---|---|---|---|",
        *(row(run, machine, checkpointing, flops, options) for checkpointing in CHECKPOINTING),
    ]
    print("\n".join(lines))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
