"""What steps, weightings, critics and sampling wait for on a device that is not the CPU, as JSON on standard output.

PYTHONPATH=tests/support:tests/distributed:benchmarks python tests/support/traced_steps.py
"""

import json
from collections.abc import Callable

import torch
from gpu_checks.bench import batch, tiny_policy
from gpu_checks.parity import CRITICS, LORA, Models
from other_device import DEVICE, OnDevice, Trace, TwoDevicesError, moved
from tiny_models import ARCHITECTURES, byte_tokenizer

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.sample import sample
from weighted_mtp.losses.critic_loss import ImplicitConfig
from weighted_mtp.losses.critic_objective import ImplicitObjective, ValueObjective
from weighted_mtp.losses.mtp_loss import LossConfig
from weighted_mtp.losses.objective import PolicyObjective, Sums
from weighted_mtp.runtime.device import WITHOUT_FP64
from weighted_mtp.training.optim import Group, OptimConfig, build_optimizer, clip_gradients
from weighted_mtp.training.updates import _divide, _over_ranks
from weighted_mtp.value_weighting.controls import Uniform

WITHOUT_FP64.add(DEVICE.type)
found: dict[str, dict[str, object]] = {}


def traced(name: str, action: Callable[[], object]) -> object:
    with Trace() as trace:
        result = action()
    found[name] = {"waits": sum(trace.waits.values()), "of": trace.waits, "arrivals": sum(trace.arrivals.values())}
    return result


def steps() -> None:
    """Of each architecture, and with LoRA; then a step's metrics and clipping."""
    with Trace():
        data = batch(0).to(DEVICE)
    objective = PolicyObjective(Uniform(), LossConfig())
    for architecture, lora in [*((name, None) for name in ARCHITECTURES), ("llama", LORA)]:
        model = moved(tiny_policy(architecture, lora)).train()

        def microbatch(model: torch.nn.Module = model) -> Sums:
            items, _ = objective.prepare([data], {})
            sums = objective.sums(model, items[0])  # type: ignore[arg-type]
            sums.loss.backward()
            return sums

        sums = traced(f"microbatch, {architecture}{', LoRA' if lora else ''}", microbatch)
    traced("metrics of a step", lambda: _divide(_over_ranks([sums, sums])))  # type: ignore[list-item]
    optimizer = build_optimizer([Group("all", model.parameters(), 1e-3)], OptimConfig())
    traced("clipping", lambda: clip_gradients(optimizer, 1.0))


def weightings_and_critics() -> None:
    models = Models(torch.device("cpu"))
    for model in (models.policy, models.reference, models.critic):
        moved(model)
    with Trace():
        batches = [batch(i).to(DEVICE) for i in range(2)]
    for name, weighting in models.weightings().items():
        state = weighting.initial_state()
        traced(name, lambda w=weighting, s=state: PolicyObjective(w, LossConfig()).prepare(batches, s))  # type: ignore[misc]
    for config in CRITICS:
        implicit = isinstance(config, ImplicitConfig)
        objective = ImplicitObjective(config, models.asked_reference) if implicit else ValueObjective(config)
        trained = models.policy if implicit else models.critic

        def microbatch(objective=objective, trained=trained) -> None:  # type: ignore[no-untyped-def]
            items, _ = objective.prepare(batches[:1], objective.initial_state())
            objective.sums(trained, items[0]).loss.backward()

        traced(f"critic, {config.objective}{' by last' if config == CRITICS[1] else ''}", microbatch)


def sampling() -> None:
    model, prompts = moved(tiny_policy()).eval(), [[1, 2, 3], [4, 5, 6, 7]]
    drawn = SamplingConfig(max_new_tokens=6, temperature=0.8, top_p=0.9, n_samples=2, stop=("zz",))
    for name, config in (("greedy", SamplingConfig(max_new_tokens=6)), ("drawn", drawn)):
        traced(f"sampling, {name}", lambda c=config: sample(model, byte_tokenizer(), prompts, c))  # type: ignore[misc]


def meeting() -> None:
    """That a CPU tensor which meets one of the device is seen."""
    try:
        with Trace():
            OnDevice(torch.ones(2)) + torch.ones(2)
    except TwoDevicesError as error:
        found["meeting"] = {"error": str(error)}


def double_precision() -> None:
    """That fp64 on the device is seen."""
    try:
        with Trace():
            OnDevice(torch.ones(2)).double()
    except TypeError as error:
        found["double precision"] = {"error": str(error)}


for part in (steps, weightings_and_critics, sampling, meeting, double_precision):
    part()
print(json.dumps(found))
