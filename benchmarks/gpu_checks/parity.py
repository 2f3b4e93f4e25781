"""Whether the device computes what the CPU computes: steps, weightings, critics, the loss, attention, sampling."""

from collections.abc import Callable
from typing import Any

import torch
from tiny_models import ARCHITECTURES, byte_tokenizer, tiny_model
from torch import Tensor, nn

from gpu_checks.bench import (
    CPU,
    Bench,
    Numbers,
    batch,
    distance,
    flat,
    gradients,
    need,
    on_device,
    runtime,
    tiny_policy,
)
from weighted_mtp.data.batches import Batch
from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.sample import sample
from weighted_mtp.losses.critic_loss import ImplicitConfig, LambdaReturnConfig, OutcomeConfig, PairwiseRankingConfig
from weighted_mtp.losses.critic_objective import ImplicitObjective, ValueObjective
from weighted_mtp.losses.linear_ce import weighted_linear_cross_entropy
from weighted_mtp.losses.mtp_loss import LossConfig
from weighted_mtp.losses.objective import Objective, PolicyObjective, Sums
from weighted_mtp.losses.token_ce import head_cross_entropies, next_token_cross_entropies
from weighted_mtp.models.adapters import LoraSettings
from weighted_mtp.models.mtp import MTPForCausalLM, Unembedding
from weighted_mtp.models.value import ValueModel
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast
from weighted_mtp.training.updates import _divide, _over_ranks
from weighted_mtp.value_weighting.base import TokenWeighting
from weighted_mtp.value_weighting.controls import PositionMatched, RandomMatched, Shuffled, Uniform
from weighted_mtp.value_weighting.rho1 import Rho1Config, Rho1Weighting
from weighted_mtp.value_weighting.td import TDConfig, TDWeighting

LORA = LoraSettings(r=2)
FP32, BF16_LOSS, BF16_COSINE = 1e-4, 0.02, 0.99
ENOUGH_EQUAL = 0.9  # of sampled completions: rounding decides between tokens that are nearly as likely
CRITICS = (
    PairwiseRankingConfig(),
    PairwiseRankingConfig(pooling="last", margin=1.0),
    LambdaReturnConfig(huber_delta=0.1),
    OutcomeConfig(),
    ImplicitConfig(),
)


def one_step(architecture: str, config: RuntimeConfig, lora: LoraSettings | None) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a step of a tiny policy."""
    model = on_device(tiny_policy(architecture, lora), config)
    device = torch.device(config.device)
    objective = PolicyObjective(Uniform(), LossConfig(detach_extra_heads=False))
    items, _ = objective.prepare([batch(1).to(device)], {})
    with autocast(device, config):
        loss = objective.sums(model, items[0]).loss
    loss.backward()
    return float(loss), gradients(model)


def policy_steps(bench: Bench) -> Numbers:
    """Loss and every gradient of each architecture, full, with LoRA and with checkpointing: within 1e-4 of the CPU's in
    fp32; in bf16 the loss within 2 %, the gradients' cosine above 0.99."""
    worst = 0.0
    for architecture in ["llama", "gemma2"] if bench.small else [*ARCHITECTURES]:
        for lora, checkpointing in ((None, False), (LORA, False), (None, True)):
            loss, expected = one_step(architecture, runtime(CPU, "fp32", checkpointing), lora)
            got, found = one_step(architecture, bench.config("fp32", checkpointing), lora)
            what = f"{architecture}, {'LoRA' if lora else 'full'}{', checkpointing' if checkpointing else ''}"
            need(abs(got - loss) < FP32 * abs(loss), f"{what}: loss {got} for {loss}")
            need(found.keys() == expected.keys(), f"{what}: gradients of other parameters")
            errors = {name: distance(found[name], g) for name, g in expected.items() if g.norm() > 1e-6}
            name = max(errors, key=errors.__getitem__)
            need(errors[name] < FP32, f"{what}: gradient of {name} is off by {errors[name]:.1e}")
            worst = max(worst, errors[name])
    loss, expected = one_step("llama", runtime(CPU), None)
    got, found = one_step("llama", bench.config("bf16"), None)
    cosine = float(torch.cosine_similarity(flat(found[n] for n in expected), flat(expected.values()), 0))
    need(abs(got - loss) < BF16_LOSS * abs(loss), f"bf16 loss {got} for {loss}")
    need(cosine > BF16_COSINE, f"cosine of bf16 gradients {cosine}")
    return {"worst gradient, fp32": f"{worst:.1e}", "cosine, bf16": f"{cosine:.5f}"}


class Models:
    """A policy, a reference and a critic, the same on every device."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        self.policy = MTPForCausalLM.from_base(tiny_model("llama"), 3, "random").to(device).eval()
        self.reference = MTPForCausalLM.from_base(tiny_model("llama", 2), 1).to(device).eval()
        critic = ValueModel.from_base(tiny_model("llama", 1), "mlp")
        nn.init.normal_(critic.value_head[-1].weight)  # type: ignore[index]
        self.critic = critic.to(device).eval()
        self.asked_policy = _asked(lambda x: head_cross_entropies(self.policy, x))
        self.asked_reference = _asked(lambda x: next_token_cross_entropies(self.reference, x))

    def weightings(self) -> dict[str, TokenWeighting]:
        def td(**options: Any) -> TDWeighting:
            return TDWeighting(TDConfig(**options), _asked(lambda x: self.critic(x.input_ids)))

        modes = ("signed", "absolute", "difficult")
        of_modes = {m: Rho1Weighting(Rho1Config(mode=m), self.asked_policy, self.asked_reference) for m in modes}
        return {
            "uniform": Uniform(),
            "td": td(),
            "td by head": td(head_strengths=(1.0, 0.5, 0.0), strength=0.9, anneal_steps=3),
            "td with reward": td(space="probability", terminal_reward=1.0),
            "shuffled": Shuffled(td(), 0),
            "random matched": RandomMatched(td(), 0),
            "position matched": PositionMatched(td(), 0),
            **of_modes,
        }


def _asked(question: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
    return torch.no_grad()(question)


def weightings_and_critics(bench: Bench) -> Numbers:
    """Weights and metrics of every weighting over two steps, losses and metrics of every critic, acceptance: within
    1e-4 of the CPU's."""
    expected, found = (_weighted(device) | _criticised(device) for device in (CPU, bench.device))
    errors = {name: distance(found[name], value) for name, value in expected.items()}
    name = max(errors, key=errors.__getitem__)
    need(errors[name] < FP32, f"{name} is off by {errors[name]:.1e}")
    return {"compared": str(len(errors)), "worst": f"{name}, {errors[name]:.1e}"}


def _weighted(device: torch.device) -> dict[str, Tensor]:
    models, batches = Models(device), [batch(i).to(device) for i in range(3)]
    found = {}
    for name, weighting in models.weightings().items():
        objective, state = PolicyObjective(weighting, LossConfig()), weighting.initial_state()
        for _ in range(2):
            items, state = objective.prepare(batches, state)
        found[name] = flat(item.batch.at_response(item.weights) for item in items)
        found[f"{name}, metrics"] = _metrics(objective, models.policy, items)
    return found


def _criticised(device: torch.device) -> dict[str, Tensor]:
    models, batches = Models(device), [batch(i).to(device) for i in range(3)]
    found = {}
    for config in CRITICS:
        implicit = isinstance(config, ImplicitConfig)
        objective = ImplicitObjective(config, models.asked_reference) if implicit else ValueObjective(config)
        items, _ = objective.prepare(batches, objective.initial_state())
        found[repr(config)] = _metrics(objective, models.policy if implicit else models.critic, items)
    return found


def _metrics(objective: Objective, model: Any, items: Any) -> Tensor:
    with torch.no_grad():
        sums = [objective.sums(model, item) for item in items]
    total = _divide(_over_ranks([Sums(s.loss.detach(), s.count, s.metrics) for s in sums]))
    return torch.tensor([*total.values()])


def linear_cross_entropy(bench: Bench) -> Numbers:
    """The weighted loss in bf16 against one product in fp64: loss within 1e-3, gradients within 1e-2, CE in fp32."""
    n, d, v = (512, 64, 997) if bench.small else (4096, 1024, 32000)
    torch.manual_seed(0)
    hidden, matrix = torch.randn(n, d), torch.randn(v, d) / d**0.5
    targets, weights = torch.randint(v, (n,)), torch.rand(n)
    hidden, matrix, targets, weights = (x.to(bench.device) for x in (hidden, matrix, targets, weights))
    a, b = hidden.double().requires_grad_(), matrix.double().requires_grad_()
    exact = (weights.double() * nn.functional.cross_entropy(a @ b.T, targets, reduction="none")).sum()
    exact.backward()
    x, w = hidden.clone().requires_grad_(), matrix.clone().requires_grad_()
    rows = torch.arange(n, device=bench.device)
    with autocast(bench.device, bench.config("bf16")):
        found = weighted_linear_cross_entropy(x, rows, targets, weights, Unembedding(w, None, None))
    found.total.backward()
    errors = {
        "loss": distance(found.total, exact),
        "states": distance(x.grad, a.grad),
        "unembedding": distance(w.grad, b.grad),
    }
    need(errors["loss"] < 1e-3 and max(errors.values()) < 1e-2, str(errors))
    need(found.ce.dtype == torch.float32, f"CE is in {found.ce.dtype}")
    return {name: f"{error:.1e}" for name, error in errors.items()}


def attention(bench: Bench) -> Numbers:
    """States of real tokens without a mask, as training takes them, are those with one, of each architecture: 1e-5."""
    worst, data = 0.0, batch(0).to(bench.device)
    for architecture in ["llama", "gemma2"] if bench.small else [*ARCHITECTURES]:
        model = tiny_policy(architecture).to(bench.device).eval()
        with torch.no_grad():
            plain = model.head_states(data.input_ids)[:, data.attention_mask]
            masked = model.head_states(data.input_ids, data.attention_mask)[:, data.attention_mask]
        worst = max(worst, distance(plain, masked))
        need(worst < 1e-5, f"{architecture}: {worst:.1e}")
    return {"worst": f"{worst:.1e}"}


def dropout(bench: Bench) -> Numbers:
    """The same (seed, step, microbatch) gives the same gradients, to 1e-6; with checkpointing, which replays dropout,
    to 1e-5."""
    found = []
    for checkpointing in (False, False, True):
        model = on_device(tiny_policy(lora=LoraSettings(r=2, dropout=0.3)), bench.config("fp32", checkpointing))
        objective = PolicyObjective(Uniform(), LossConfig())
        items, _ = objective.prepare([batch(0).to(bench.device)], {})
        torch.manual_seed(1 + (3 << 40))
        objective.sums(model, items[0]).loss.backward()
        found.append(flat(gradients(model).values()))
    first, again, replayed = found
    need(distance(again, first) < 1e-6, f"again: {distance(again, first):.1e}")
    need(distance(replayed, first) < 1e-5, f"with checkpointing: {distance(replayed, first):.1e}")
    exact = "to the bit" if torch.equal(first, again) else f"{distance(again, first):.0e}"
    return {"again": exact, "with checkpointing": f"{distance(replayed, first):.0e}"}


def sampling(bench: Bench) -> Numbers:
    """Completions of a tiny fp32 policy, greedy and drawn, with the heads drafting where they do: nine of ten are the
    CPU's."""
    tokenizer, prompts = byte_tokenizer(), [list(range(1, 4 + i)) for i in range(8)]
    numbers = {}
    for config in (
        SamplingConfig(max_new_tokens=24, batch_size=3),
        SamplingConfig(max_new_tokens=24, temperature=0.8, top_p=0.9, n_samples=3, batch_size=5),
    ):
        expected, found = (
            [one.text for row in sample(tiny_policy().to(device), tokenizer, prompts, config) for one in row]
            for device in (CPU, bench.device)
        )
        equal = sum(a == b for a, b in zip(expected, found, strict=True))
        need(equal >= ENOUGH_EQUAL * len(expected), f"{equal} of {len(expected)} at {config.temperature}")
        numbers[f"temperature {config.temperature}"] = f"{equal} of {len(expected)} equal"
    return numbers
