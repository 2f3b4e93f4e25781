"""What the checks share: the device and what it can do at most, random models and batches, time and memory."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

import torch
from tiny_models import VOCABULARY, tiny_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from weighted_mtp.data.batches import Batch
from weighted_mtp.models.adapters import LoraSettings, apply_lora
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.sharding import placed

CPU = torch.device("cpu")
Numbers = dict[str, str]
GEMM, COPY = 0.79e15, 4.3e12  # an H200's bf16 products in FLOP/s and copies in B/s, until `ceilings` has measured


@dataclass
class Bench:
    """The device that is checked.

    small  shapes that a CPU takes in a second: the rehearsal
    gemm   bf16 products, FLOP/s, that other checks are compared to
    """

    device: torch.device
    small: bool
    gemm: float = GEMM

    @classmethod
    def on(cls, device: str, small: bool) -> "Bench":
        torch.set_float32_matmul_precision("highest")
        return cls(torch.device(device), small)

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def config(self, precision: str = "fp32", checkpointing: bool = False) -> RuntimeConfig:
        return runtime(self.device, precision, checkpointing)

    def wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()

    def clear(self) -> None:
        if self.is_gpu:
            torch.cuda.empty_cache()

    def seconds(self, action: Callable[[], object], repeats: int = 5, warm: int = 2) -> float:
        """Median of several runs."""
        for _ in range(warm):
            action()
        found = []
        for _ in range(repeats):
            self.wait()
            started = time.perf_counter()
            action()
            self.wait()
            found.append(time.perf_counter() - started)
        return median(found)

    def peak(self, action: Callable[[], object]) -> int:
        """Bytes that the device held at most beyond what it held before; 0 on a CPU."""
        if not self.is_gpu:
            action()
            return 0
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        self.wait()
        return torch.cuda.max_memory_allocated() - before


Check = Callable[[Bench], Numbers]


def runtime(device: torch.device, precision: str = "fp32", checkpointing: bool = False) -> RuntimeConfig:
    options = {"device": device.type, "precision": precision, "activation_checkpointing": checkpointing}
    return RuntimeConfig.model_validate(options)


def need(holds: bool, otherwise: str) -> None:
    """Fail a check, also under `python -O`."""
    if not holds:
        raise AssertionError(otherwise)


def distance(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖, in fp64 on the CPU."""
    a, b = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def flat(gradients: Iterable[Tensor]) -> Tensor:
    return torch.cat([g.detach().flatten().float().cpu() for g in gradients])


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def tiny_policy(architecture: str = "llama", lora: LoraSettings | None = None) -> MTPForCausalLM:
    """The same for every device: drawn on the CPU. LoRA's B, which starts from zero, is drawn, too."""
    torch.manual_seed(0)
    model = MTPForCausalLM.from_base(tiny_model(architecture), 3, "random")
    if lora is not None:
        apply_lora(model, lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    return model


def on_device(model: MTPForCausalLM, config: RuntimeConfig) -> MTPForCausalLM:
    """As a training run places it."""
    placed(model, config)
    return model.train()


def llama(bench: Bench, hidden: int, layers: int, vocabulary: int) -> PreTrainedModel:
    """A random one of this size, drawn on the device."""
    heads = max(2, hidden // 128)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=int(hidden * 2.6875),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    with bench.device:
        return AutoModelForCausalLM.from_config(config)


def batch(seed: int, rows: int = 4, length: int = 17, vocabulary: int = VOCABULARY, full: bool = False) -> Batch:
    """Random rows of a third of the length to all of it, or all full; the first 5 tokens are the prompt."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(length * 2 // 3, length + 1, (rows,), generator=generator)
    lengths[0] = length
    if full:
        lengths[:] = length
    mask = torch.arange(length)[None] < lengths[:, None]
    response = mask.clone()
    response[:, :5] = False
    marks = torch.randint(0, 4, (rows, length), generator=generator).byte()
    ids = torch.randint(0, vocabulary, (rows, length), generator=generator)
    return Batch(ids, mask, response, torch.arange(rows) + 100 * seed, marks)
