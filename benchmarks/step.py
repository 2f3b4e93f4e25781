"""Time and memory of a training step: here, the plain way, in bf16, checkpointed, compiled, with a critic; in turns.

    OMP_NUM_THREADS=1 uv run python benchmarks/step.py [--sizes micro smollm2] [--repeats 5]

Forward, backward and clipping of one microbatch whose tokens are responses but for the first ten of a row; random
weights. Times are CPU seconds of one thread, which other programs on the machine disturb less than elapsed ones; ways
take turns, and ratios are taken round by round: median (lowest to highest).

the plain way     what one writes without this package: an attention mask, all heads' logits, `cross_entropy` of each
verifiable        weighted by a critic of the policy's size, which is passed first
… again           the same programs once more, with `frozen_cache`
uniform + critic  the two measured apart, and added

Memory is that of tensors, each counted from when it is made until it is freed, and beside it parameters and Adam's two
states; it does not depend on the machine's load. The tables are written to benchmarks/results/step.md.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from measured import machine, ratio
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from weighted_mtp.data.batches import Batch
from weighted_mtp.losses.mtp_loss import LossConfig
from weighted_mtp.losses.objective import PolicyObjective
from weighted_mtp.memory.footprint import MemoryCounter
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.models.value import ValueModel
from weighted_mtp.pipelines.frozen_cache import FrozenCacheConfig, kept
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast, recomputing
from weighted_mtp.runtime.sharding import placed, placed_frozen
from weighted_mtp.training.optim import Group, OptimConfig, build_optimizer, clip_gradients
from weighted_mtp.value_weighting.base import TokenWeighting
from weighted_mtp.value_weighting.controls import Uniform
from weighted_mtp.value_weighting.td import TDConfig, TDWeighting

RESULTS = Path(__file__).parent / "results" / "step.md"
CPU = torch.device("cpu")
HEADS, PROMPT = 4, 10
FP32, BF16 = (RuntimeConfig(device="cpu", precision=precision) for precision in ("fp32", "bf16"))
Step = Callable[[Batch], Tensor]
"""A microbatch → its loss, ready for backward."""


@dataclass(frozen=True)
class Size:
    """A model and its microbatch."""

    config: LlamaConfig
    rows: int
    length: int

    def batch(self, seed: int = 0) -> Batch:
        ids = torch.randint(3, 500, (self.rows, self.length), generator=torch.Generator().manual_seed(seed))
        real = torch.ones_like(ids, dtype=torch.bool)
        response = real.clone()
        response[:, :PROMPT] = False
        return Batch(ids, real, response, torch.arange(self.rows), torch.zeros_like(ids, dtype=torch.uint8))


def llama(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
    )


SIZES = {
    "micro": Size(llama(192, 512, 4, 6, 6, 512), 31, 66),
    "smollm2": Size(llama(576, 1536, 30, 9, 3, 49152), 2, 512),
}


def policy(size: Size, heads: int = HEADS) -> MTPForCausalLM:
    torch.manual_seed(0)
    return MTPForCausalLM.from_base(LlamaForCausalLM(size.config), heads).train()


def here(model: MTPForCausalLM, runtime: RuntimeConfig, weighting: TokenWeighting | None = None) -> Step:
    """A microbatch as `training.updates` passes it."""
    objective = PolicyObjective(weighting or Uniform(), LossConfig())
    state = objective.initial_state()

    def step(batch: Batch) -> Tensor:
        items, _ = objective.prepare([batch], state)
        with autocast(CPU, runtime):
            return objective.sums(model, items[0]).loss

    return step


def plainly(model: MTPForCausalLM) -> Step:
    """Every head's logits, kept until backward."""

    def step(batch: Batch) -> Tensor:
        states = model.head_states(batch.input_ids, batch.attention_mask)
        logits, total = model.unembed(states), states.new_zeros(())
        for k in range(1, len(logits) + 1):
            chosen = batch.response_mask[:, k:]
            total = total + F.cross_entropy(
                logits[k - 1][:, :-k][chosen], batch.input_ids[:, k:][chosen], reduction="sum"
            )
        return total

    return step


def checkpointed(model: MTPForCausalLM, step: Step, which: bool | str) -> Step:
    """The step with activation checkpointing, which the model does without otherwise."""

    def switched(batch: Batch) -> Tensor:
        recompute = {"use_reentrant": False, "context_fn": lambda: recomputing(autocast(CPU, FP32), which)}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=recompute)
        return step(batch)

    return switched


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def stepped(model: MTPForCausalLM, step: Step, batch: Batch) -> Callable[[], None]:
    """Forward, backward and clipping."""
    optimizer = build_optimizer([Group("all", model.parameters(), 0.0)], OptimConfig())

    def run() -> None:
        step(batch).backward()
        clip_gradients(optimizer, 1.0)
        optimizer.zero_grad()
        model.activation_checkpointing_disable()

    return run


def tensors_peak(model: MTPForCausalLM, run: Callable[[], object]) -> int:
    """Bytes of tensors at the highest moment of a step, parameters and Adam's states included."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    with MemoryCounter([*model.parameters(), *model.buffers()]) as counter:
        run()
    return 3 * weights + max(counter.moments.values())


def in_turns(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return times


def ways(name: str, size: Size, repeats: int) -> list[str]:
    """Tables of one size."""
    batch, model = size.batch(), policy(size)
    single = policy(size, 1)
    lower, compiled, lower_compiled = (copy.deepcopy(model) for _ in range(3))
    placed(lower, BF16)
    placed(compiled, FP32.model_copy(update={"compile": True}))
    placed(lower_compiled, BF16.model_copy(update={"compile": True}))
    step = here(model, FP32)
    runs = {
        "the plain way, fp32": stepped(model, plainly(model), batch),
        "here, fp32": stepped(model, step, batch),
        "here, fp32, selective checkpointing": stepped(model, checkpointed(model, step, "selective"), batch),
        "here, fp32, full checkpointing": stepped(model, checkpointed(model, step, True), batch),
        "here, fp32, compiled": stepped(compiled, here(compiled, FP32), batch),
        "here, bf16": stepped(lower, here(lower, BF16), batch),
        "here, bf16, compiled": stepped(lower_compiled, here(lower_compiled, BF16), batch),
    }
    for _ in range(2):  # a compiled way compiles anew once the others have switched checkpointing on and off
        for run in runs.values():
            run()
    counted = {way: run for way, run in runs.items() if "compiled" not in way}  # a counter of tensors stops compilation
    peaks = {way: tensors_peak(lower if "bf16" in way else model, run) for way, run in counted.items()}
    shown = {way: f"{peak / 2**20:,.0f}" for way, peak in peaks.items()}
    one = tensors_peak(single, stepped(single, here(single, FP32), batch))
    times = in_turns(runs, repeats)
    plain, fp32 = times["the plain way, fp32"], times["here, fp32"]
    tokens = size.rows * size.length
    lines = [
        f"## {name}: {sum(p.numel() for p in model.parameters()):,} parameters, {HEADS} heads, {size.rows} × "
        f"{size.length} tokens, {repeats} rounds",
        "",
        "| way | tokens per CPU second | times the plain way's speed | times fp32's speed here | peak, MiB |",
        "|---|---|---|---|---|",
    ]
    for way, found in times.items():
        speed = f"{tokens / statistics.median(found):,.0f}"
        lines.append(f"| {way} | {speed} | {ratio(plain, found)} | {ratio(fp32, found)} | {shown.get(way, '')} |")
    four = peaks["here, fp32"]
    lines += ["", f"Peak of {HEADS} heads / 1 head: {four / one:.2f} ({four / 2**20:,.0f} / {one / 2**20:,.0f} MiB)."]
    return [*lines, "", *criticised(model, size, repeats)]


def criticised(model: MTPForCausalLM, size: Size, repeats: int) -> list[str]:
    """What a critic adds to a step, and what is left of that when it has seen the programs."""
    torch.manual_seed(1)
    critic = ValueModel.from_base(LlamaForCausalLM(size.config), "mlp")
    nn.init.normal_(critic.value_head[-1].weight)  # type: ignore[index]
    placed_frozen(critic, FP32)

    @torch.no_grad()
    def values(batch: Batch) -> Tensor:
        return critic(batch.input_ids)

    batch = size.batch()
    with tempfile.TemporaryDirectory() as folder:
        cached = kept(values, FrozenCacheConfig(file=Path(folder) / "outputs.sqlite"), "step")
        runs = {
            "uniform": stepped(model, here(model, FP32), batch),
            "critic": lambda: values(batch),
            "verifiable": stepped(model, here(model, FP32, TDWeighting(TDConfig(), values)), batch),
            "verifiable again": stepped(model, here(model, FP32, TDWeighting(TDConfig(), cached)), batch),
        }
        for run in runs.values():
            run()
        times = in_turns(runs, repeats)
    apart = [a + b for a, b in zip(times["uniform"], times["critic"], strict=True)]
    return [
        "| | ratio of CPU seconds |",
        "|---|---|",
        f"| verifiable / (uniform + critic) | {ratio(times['verifiable'], apart)} |",
        f"| verifiable / uniform | {ratio(times['verifiable'], times['uniform'])} |",
        f"| verifiable again / uniform | {ratio(times['verifiable again'], times['uniform'])} |",
        f"| verifiable again / verifiable | {ratio(times['verifiable again'], times['verifiable'])} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [f"{machine()}, one thread, torch {torch.__version__}", ""]
    for name in options.sizes:
        lines += [*ways(name, SIZES[name], options.repeats), ""]
        RESULTS.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
