"""Whether training holds on the device: FSDP2, offload, checkpoints, resume, saving, and waits for the device."""

import contextlib
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from runs import prepare, records, start_of, train
from torch import Tensor, distributed
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

from gpu_checks.bench import (
    Bench,
    Numbers,
    batch,
    distance,
    flat,
    gradients,
    llama,
    need,
    on_device,
    tiny_policy,
)
from weighted_mtp.losses.mtp_loss import LossConfig
from weighted_mtp.losses.objective import PolicyObjective, Sums
from weighted_mtp.models.adapters import LoraSettings, apply_lora, merge_lora, save_merged
from weighted_mtp.models.checkpoint import load_model
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.runtime import sharding
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast, recomputing
from weighted_mtp.training.optim import Group, OptimConfig, build_optimizer, clip_gradients
from weighted_mtp.training.state import TrainState
from weighted_mtp.training.updates import Updates, _divide, _over_ranks
from weighted_mtp.value_weighting.controls import Uniform

PIPELINES = ("baseline", "verifiable", "rho1", "critic", "ref_tuning")
RESUMED = {"fp32": 1e-4, "bf16": 5e-2}  # a GPU adds in any order; one CPU rank resumes to the last bit
STOPPED_IN = 6
SAVING = 0.1  # of the weights


def synchronisations(bench: Bench) -> Numbers:
    """Waits for the device: in a microbatch's weights, forward and backward none but the one of transformers, which
    looks for packed sequences; in a step's metrics one."""
    model = on_device(tiny_policy(), bench.config("bf16"))
    objective, data = PolicyObjective(Uniform(), LossConfig()), batch(0).to(bench.device)

    def microbatch() -> Sums:
        items, _ = objective.prepare([data], {})
        with autocast(bench.device, bench.config("bf16")):
            sums = objective.sums(model, items[0])
        sums.loss.backward()
        return sums

    sums = microbatch()  # caches fill, kernels load
    if not bench.is_gpu:
        return {}
    found = {"microbatch": _waits(microbatch), "metrics": _waits(lambda: _divide(_over_ranks([sums, sums])))}
    need(found == {"microbatch": 1, "metrics": 1}, str(found))
    return {name: str(count) for name, count in found.items()}


def _waits(action: Callable[[], object]) -> int:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


def copies_to_the_cpu(bench: Bench) -> Numbers:
    """A batch that a busy device is asked for is there when it is read."""
    data, busy = batch(0, 64, 2048).to(bench.device), torch.randn(64 if bench.small else 8192, 64, device=bench.device)
    for _ in range(5):
        for _ in range(3):
            busy = (busy @ busy.T @ busy).clamp(-1, 1)
        moved = data.rows(slice(None)) if bench.device.type == "cpu" else data.to(bench.device)
        early = moved.to("cpu").input_ids.clone()
        bench.wait()
        need(torch.equal(early, data.input_ids.cpu()), "read before it was there")
    return {}


@contextlib.contextmanager
def _group_of_one(bench: Bench) -> Iterator[None]:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    os.environ.update(where, LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    store = distributed.TCPStore("127.0.0.1", 0, 1, is_master=True)
    backend = "cpu:gloo,cuda:nccl" if bench.is_gpu else "gloo"
    distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()
        sharding._mesh.cache_clear()
        for name in (*where, "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)


def sharded_by_one_rank(bench: Bench) -> Numbers:
    """FSDP2 on a mesh of one, with checkpointing and accumulation, full and LoRA, plain and offloaded: gradients within
    1e-4 of unsharded ones in fp32, in bf16 no farther from fp32 than twice what unsharded bf16 is; clipping is finite;
    DCP brings weights back to the bit."""
    numbers, exact = {}, dict[bool, Tensor]()
    offloads = [OffloadPolicy(), CPUOffloadPolicy()] if bench.is_gpu else [OffloadPolicy()]
    with _group_of_one(bench):
        for precision in ("fp32", "bf16"):
            for lora in (False, True):
                config = bench.config(precision, checkpointing=True)
                alone = flat(gradients(_accumulated(bench, config, lora, None)).values())
                truth = exact.setdefault(lora, alone)
                for offload in offloads:
                    model = _accumulated(bench, config, lora, offload)
                    whole = [sharding.whole_tensor(g) for g in gradients(model).values()]
                    one, sharded = distance(alone, truth), distance(flat(whole), truth)
                    what = f"{precision}, {'LoRA' if lora else 'full'}"
                    what += ", offloaded" if isinstance(offload, CPUOffloadPolicy) else ""
                    numbers[what] = f"{sharded:.1e} of fp32, unsharded {one:.1e}"
                    need(sharded < 2 * one + 1e-4, f"{what}: {numbers[what]}")
                    _comes_back(model)
    return numbers


def _accumulated(bench: Bench, config: RuntimeConfig, lora: bool, offload: OffloadPolicy | None) -> MTPForCausalLM:
    """A tiny policy after the backward of two microbatches, sharded unless `offload` is None."""
    model = tiny_policy("llama_tied", LoraSettings(r=2) if lora else None)
    if offload is None:
        on_device(model, config)
    else:
        recompute = {"use_reentrant": False, "context_fn": lambda: recomputing(autocast(bench.device, config), True)}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=recompute)
        sharding.shard(model.to(bench.device), sharding._mesh(bench.device, "full"), config, offload)
        model.train()
    objective = PolicyObjective(Uniform(), LossConfig())
    items, _ = objective.prepare([batch(i).to(bench.device) for i in range(2)], {})
    for number, item in enumerate(items):
        with autocast(bench.device, config):
            loss = objective.sums(model, item).loss
        sharding.reduce_gradients(model, number == 1)
        loss.backward()
    return model


def _comes_back(model: MTPForCausalLM) -> None:
    """Clip, step, save, spoil and load."""
    optimizer = build_optimizer([Group("all", model.parameters(), 1e-3)], OptimConfig())
    norm = clip_gradients(optimizer, 1.0)["grad_norm"]
    need(math.isfinite(norm) and norm > 0, f"gradient norm {norm}")
    optimizer.step()
    optimizer.zero_grad()
    trained = [p for p in model.parameters() if p.requires_grad]
    state = TrainState(model, optimizer, {"step": torch.tensor(1)}, 1)
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder) / "state")
        before = [sharding.whole_tensor(p.detach()).cpu().clone() for p in trained]
        with torch.no_grad():
            for p in trained:
                p.add_(1.0)
        state.load(Path(folder) / "state")
    after = [sharding.whole_tensor(p.detach()).cpu() for p in trained]
    need(all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "DCP brought other weights back")


class _StoppedError(Exception):
    pass


def pipelines_resume(bench: Bench) -> Numbers:
    """Each pipeline on the micro benchmark, stopped in step 6 and resumed from 4: all that is logged is within 1e-4
    (bf16: 5e-2) of the run that nothing stopped."""
    numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        prepare(storage)
        for precision in ("fp32",) if bench.small else ("fp32", "bf16"):
            for pipeline in PIPELINES[:2] if bench.small else PIPELINES:
                where = [f"runtime.device={bench.device.type}", f"runtime.precision={precision}"]
                options = [*where, "training.save_every=4", *start_of(storage, pipeline)]
                whole, again = (f"{pipeline}-{precision}-{name}" for name in ("whole", "again"))
                train(storage, pipeline, whole, options)
                _stopped(storage, pipeline, again, options)
                train(storage, pipeline, again, options)
                worst = _difference(storage / "runs" / whole, storage / "runs" / again)
                numbers[f"{pipeline}, {precision}"] = f"{worst:.0e}"
                need(worst < RESUMED[precision], f"{pipeline}, {precision}: off by {worst:.1e}")
    return numbers


def _stopped(storage: Path, pipeline: str, name: str, options: list[str]) -> None:
    undisturbed = Updates.step

    def step(self: Updates) -> dict[str, float]:
        if self.state.step == STOPPED_IN:
            raise _StoppedError
        return undisturbed(self)

    Updates.step = step  # type: ignore[method-assign]
    try:
        with contextlib.suppress(_StoppedError):
            train(storage, pipeline, name, options)
    finally:
        Updates.step = undisturbed  # type: ignore[method-assign]


def _difference(whole: Path, again: Path) -> float:
    """The largest, relative to values above 1, between what two runs logged at the same steps."""
    a, b = ({(r["split"], r["step"]): r for r in records(run)} for run in (whole, again))
    need(a.keys() == b.keys(), f"steps {sorted(b)} for {sorted(a)}")
    values = [(x, b[key][name]) for key, record in a.items() for name, x in record.items() if isinstance(x, float)]
    return max(abs(y - x) / max(1.0, abs(x)) for x, y in values)


def saving(bench: Bench) -> Numbers:
    """A LoRA policy is saved merged, as its merged copy would be, with less than a tenth of its weights' memory."""
    size = (64, 3, 257) if bench.small else (2048, 12, 32000)
    model = MTPForCausalLM.from_base(llama(bench, *size), 4, "copy")
    apply_lora(model, LoraSettings(r=16)).to(bench.device)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        used = bench.peak(lambda: save_merged(model, Path(folder)))
        need(used < SAVING * weights, f"{used / 1e9:.2f} GB for {weights / 1e9:.2f} GB of weights")
        saved = load_model(MTPForCausalLM, folder, "float32", surplus=False)
        worst = distance(flat(saved.parameters()), flat(merge_lora(model).cpu().parameters()))
    need(worst < 1e-6, f"saved weights are off by {worst:.1e}")
    return {"memory": f"{used / 1e9:.2f} GB for {weights / 1e9:.2f} GB of weights"}
