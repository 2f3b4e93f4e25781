"""What share of a GPU's peak a training step's microbatch would reach: counted from its operations, never timed.

    python benchmarks/planned_speed.py [CONFIG] [--override a.b=value …] [--gpus 4]

The microbatch is passed through a model of shapes, as `wmtp plan` does. Each operation is taken to last as long as its
arithmetic or its memory traffic does, whichever is more: products at `--products` and attention at `--attention`
FLOP/s, everything else by the bytes of what it reads and writes at `--bytes` per second. The defaults are what an H200
is known to reach, so they are assumptions. A row is one activation checkpointing of the same run.
The share is the model's own arithmetic, nothing recomputed, over that time at `--peak` FLOP/s: 2 per parameter and
token forward, as many for the gradient of activations and, for parameters in training, as many again (Chowdhery et
al. 2022, arXiv 2204.02311, appendix B); attention is causal.

Not counted: what ranks send to each other, the optimizer, launches (a GPU is taken to be busy), and kernels that a
compiler would fuse. The table is printed and written to benchmarks/results/planned_speed.md.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import torch
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
PARTIAL = {
    "index_select",
    "gather",
    "index_copy_",
    "scatter_add_",
    "scatter_",
    "embedding",
}  # touch a part of one input
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
            self._note(name, func, args, kwargs or {}, result)
        return result

    def _note(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        if "scaled_dot_product" in name:
            kind, flops = "attention", _of_attention(args, "backward" in name)
        elif count := flop_registry.get(func.overloadpacket):
            kind, flops = "products", count(*args, **kwargs, out_val=result)
        else:
            kind, flops = "the rest", 0
        read, written = _bytes((args, kwargs)), _bytes(result)
        moved = sum(read) + sum(written)
        if name in PARTIAL:  # of the tensor that they look into, or write into, they touch what the others say
            moved = 2 * (max(read[1:]) if name.endswith("_") else sum(written))
        self.kernels += 1
        self.seconds[kind] += max(flops / self._rates[kind] if flops else 0.0, moved / self._rates["the rest"])


def _bytes(tree: Any) -> list[int]:
    """Of each tensor, once."""
    return [t.numel() * t.element_size() for t in _tensors(tree)]


def _tensors(tree: Any) -> list[Tensor]:
    return list({id(x): x for x in tree_leaves(tree) if isinstance(x, Tensor)}.values())


def _of_attention(args: Any, backward: bool) -> float:
    """Two products of (T, T, C) a head, half of them causal; backward, with the scores made again, five."""
    query = args[1] if backward else args[0]
    batch, heads, length, channels = query.shape
    return (2.5 if backward else 1.0) * 2 * batch * heads * length**2 * channels


def model_flops(run: Planned) -> float:
    """The arithmetic of a microbatch that the method itself takes."""
    with torch.device("meta"):
        model: Any = run.trained()
    output = model.get_output_embeddings().weight
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and p is not output and "embed" not in n]
    heads, config = model.config.n_future_tokens, model.config.get_text_config()
    per_token = sum(p.numel() * (6 if p.requires_grad else 4) for p in matrices)
    per_token += heads * output.numel() * (6 if output.requires_grad else 4)
    layers = config.num_hidden_layers - 1 + heads
    per_token += 6 * layers * run.batch.length * config.num_attention_heads * config.head_dim
    return run.batch.rows * run.batch.length * per_token


def row(run: Planned, machine: Machine, checkpointing: bool | Literal["selective"], options: Any) -> str:
    """The table's line for one activation checkpointing."""
    rates = {"products": options.products, "attention": options.attention, "the rest": options.bytes}
    work = Work(rates)
    trained_pass(run, checkpointing, layout_of(run, machine), work)
    seconds = sum(work.seconds.values())
    tokens = run.batch.rows * run.batch.length
    cells = [
        str(checkpointing).lower(),
        *(f"{1e3 * work.seconds[kind]:,.0f}" for kind in KINDS),
        f"{work.kernels:,}",
        f"{tokens / seconds:,.0f}",
        f"{model_flops(run) / seconds / options.peak:.0%}",
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
    rates = {name: getattr(options, name) / 1e12 for name in ("products", "attention", "bytes", "peak")}
    lines = [
        f"{' '.join([options.config, *options.override])}: {run.batch.rows} × {run.batch.length} tokens a GPU, "
        f"{options.gpus} GPUs; products at {rates['products']:g} TFLOP/s, attention at {rates['attention']:g}, "
        f"the rest at {rates['bytes']:g} TB/s; share of {rates['peak']:g} TFLOP/s",
        "",
        "| checkpointing | " + " | ".join(f"{kind}, ms" for kind in KINDS) + " | kernels | tokens/s a GPU | share |",
        "|---|---|---|---|---|---|---|",
        *(row(run, machine, checkpointing, options) for checkpointing in CHECKPOINTING),
    ]
    print("\n".join(lines))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
