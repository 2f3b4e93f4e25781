"""How fast the device is, and how much memory it takes, beside what it can do at most and what the plan says."""

import copy
from collections.abc import Callable
from contextlib import nullcontext

import torch
from measured import training_flops
from tiny_models import byte_tokenizer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_checks.bench import COPY, Bench, Numbers, batch, llama, need, on_device
from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.sample import sample
from weighted_mtp.losses.linear_ce import weighted_linear_cross_entropy
from weighted_mtp.losses.mtp_loss import LossConfig
from weighted_mtp.losses.objective import PolicyObjective
from weighted_mtp.memory.footprint import Microbatch, on_meta, training_pass
from weighted_mtp.models.adapters import LoraSettings, apply_lora
from weighted_mtp.models.mtp import MTPForCausalLM, Unembedding, takes_heads
from weighted_mtp.runtime.device import autocast
from weighted_mtp.runtime.precision import compute_in
from weighted_mtp.value_weighting.controls import Uniform

HEADS = 4
PLANNED = 0.15  # by which a measured peak may differ
H200_GEMM, H200_COPY = 6e14, 3.5e12  # what one that nothing slows reaches at least


def ceilings(bench: Bench) -> Numbers:
    """bf16 is seen; large products and copies, to which the others are compared."""
    if not bench.is_gpu:
        return {"torch": torch.__version__}
    need(torch.cuda.is_bf16_supported(including_emulation=False), "no bf16 instructions are seen")
    a = torch.randn(8192, 8192, device=bench.device, dtype=torch.bfloat16)
    source = torch.randn(1 << 30, device=bench.device)
    target = torch.empty_like(source)
    bench.gemm = 2 * 8192**3 / bench.seconds(lambda: a @ a, 10)
    copied = 2 * source.nbytes / bench.seconds(lambda: target.copy_(source), 10)
    return {
        "device": f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB",
        "torch": torch.__version__,
        "products": f"{bench.gemm / 1e12:.0f} TFLOP/s ({bench.gemm / H200_GEMM:.0%} of what an H200 should reach)",
        "copies": f"{copied / 1e12:.2f} TB/s ({copied / H200_COPY:.0%}; {COPY / 1e12:.1f} were seen)",
    }


def loss(bench: Bench) -> Numbers:
    """Time and memory of the weighted loss of four heads, the unembedding frozen and trained."""
    n, d, v = (256, 64, 997) if bench.small else (16384, 4096, 32000)
    states = torch.randn(HEADS * n, d, device=bench.device, requires_grad=True)
    matrix = torch.randn(v, d, device=bench.device)
    rows = torch.arange(HEADS * n, device=bench.device)
    targets, weights = torch.randint(v, (HEADS * n,), device=bench.device), torch.rand(HEADS * n, device=bench.device)
    numbers = {}
    for trained in (False, True):
        unembedding = Unembedding(matrix.requires_grad_(trained))

        def run(unembedding: Unembedding = unembedding) -> None:
            with autocast(bench.device, bench.config("bf16")):
                found = weighted_linear_cross_entropy(states, rows, targets, weights, unembedding)
            found.total.backward()
            states.grad = matrix.grad = None

        flops = HEADS * n * d * v * 2 * (3 if trained else 2)
        numbers["trained" if trained else "frozen"] = _speed(bench, run, flops)
    return numbers


def _speed(bench: Bench, run: Callable[[], object], flops: float) -> str:
    peak, seconds = bench.peak(run), bench.seconds(run, 3, 1)
    return f"{seconds * 1e3:.0f} ms, {peak / 1e9:.2f} GB, {flops / seconds / bench.gemm:.0%} of the ceiling"


def attention_kernels(bench: Bench) -> Numbers:
    """Time of attention's forward and backward, causal and with the mask that training leaves out."""
    if not bench.is_gpu:
        return {}
    shape = (2, 4, 256, 64) if bench.small else (8, 32, 2048, 128)
    length = shape[2]
    q, k, v = (torch.randn(shape, device=bench.device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = torch.ones(length, length, dtype=torch.bool, device=bench.device).tril().expand(shape[0], 1, -1, -1)

    def run(masked: bool) -> None:
        attend = nn.functional.scaled_dot_product_attention
        attend(q, k, v, mask if masked else None, is_causal=not masked).sum().backward()

    numbers = {}
    for name, backends, masked in (
        ("causal", None, False),
        ("causal, cuDNN", [SDPBackend.CUDNN_ATTENTION], False),
        ("masked", None, True),
    ):
        with sdpa_kernel(backends) if backends else nullcontext():
            try:
                numbers[name] = f"{bench.seconds(lambda masked=masked: run(masked)) * 1e3:.2f} ms"  # type: ignore[misc]
            except RuntimeError as error:  # a kernel that this device does not have
                numbers[name] = str(error).splitlines()[0][:80]
    return numbers


def steps(bench: Bench) -> Numbers:
    """Tokens per second, share of the ceiling and peak memory of a bf16 microbatch of four heads, full, with
    checkpointing and with LoRA; the peak is within 15 % of the planned one."""
    hidden, layers, vocabulary, rows, length = (64, 3, 257, 2, 32) if bench.small else (2048, 21, 32000, 8, 2048)
    numbers = {}
    for name, lora, checkpointing in (("full", 0, False), ("full, checkpointing", 0, True), ("LoRA", 64, False)):
        torch.manual_seed(0)
        base = llama(bench, hidden, layers, vocabulary)
        model = MTPForCausalLM.from_base(base, HEADS, "copy")
        planned = _planned_peak(model, lora, checkpointing, Microbatch(rows, length))
        if lora:
            apply_lora(model, LoraSettings(r=lora, alpha=2 * lora))
        config = bench.config("bf16", checkpointing)
        on_device(model, config)
        objective = PolicyObjective(Uniform(), LossConfig())
        data = batch(0, rows, length, vocabulary, full=True).to(bench.device)
        items, _ = objective.prepare([data], {})

        def step(model: MTPForCausalLM = model, objective: PolicyObjective = objective, items=items) -> None:  # type: ignore[no-untyped-def]
            with autocast(bench.device, bench.config("bf16")):
                found = objective.sums(model, items[0])
            found.loss.backward()
            model.zero_grad(set_to_none=True)

        used, seconds = bench.peak(step), bench.seconds(step, 3, 1)
        share = training_flops(model, rows, length) / seconds / bench.gemm
        memory = f"{used / 1e9:.1f} GB, planned {planned / 1e9:.1f}"
        numbers[name] = f"{rows * length / seconds:,.0f} tokens/s, {share:.0%} of the ceiling, {memory}"
        need(not bench.is_gpu or bench.small or abs(used - planned) < PLANNED * planned, f"{name}: {numbers[name]}")
        del model, base, items, step
        bench.clear()
    return numbers


def _planned_peak(model: MTPForCausalLM, lora: int, checkpointing: bool, microbatch: Microbatch) -> int:
    """Bytes of one pass beside the parameters, gradients included, as `wmtp plan` counts them."""
    with torch.device("meta"):
        empty = MTPForCausalLM(copy.deepcopy(model.config))
        if lora:
            apply_lora(empty, LoraSettings(r=lora, alpha=2 * lora))
    if checkpointing:
        recompute = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), _bf16())}
        empty.activation_checkpointing_enable(activation_checkpointing_kwargs=recompute)
    compute_in(empty.parts_to_gather(), torch.bfloat16)
    with on_meta(empty, torch.float32) as shapes, takes_heads(empty):
        passed = training_pass(shapes, microbatch, _bf16, detach=True)
    return max(gradients + other for gradients, other in passed.moments.items())


def _bf16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def tokens_per_second(bench: Bench) -> Numbers:
    """Sampling speed of a causal LM and of a policy whose heads draft, one completion at a time and 64."""
    tokenizer = byte_tokenizer()
    hidden, layers, sizes, length = (64, 3, (4,), 8) if bench.small else (2048, 21, (1, 64), 128)
    numbers = {}
    for heads in (0, HEADS):
        base = llama(bench, hidden, layers, 257)
        model = MTPForCausalLM.from_base(base, heads, "copy") if heads else base
        model.to(torch.bfloat16).eval()
        assert model.generation_config is not None
        model.generation_config.eos_token_id = None
        for size in sizes:
            prompts = [[1 + i % 200, *range(2, 33)] for i in range(size)]
            config = SamplingConfig(max_new_tokens=length, batch_size=size)
            found = sample(model, tokenizer, prompts, config)
            seconds = bench.seconds(lambda p=prompts, c=config, m=model: sample(m, tokenizer, p, c), 1, 0)  # type: ignore[misc]
            tokens = sum(one.n_tokens for row in found for one in row)
            numbers[f"{heads or 'no'} heads, {size} at a time"] = f"{tokens / seconds:,.0f} tokens/s"
        del model, base
        bench.clear()
    return numbers
