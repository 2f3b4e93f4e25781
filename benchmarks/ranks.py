"""Training on several ranks against training on one: equal losses, runs that are killed, memory. gloo, one machine.

    export PYTHONPATH=tests/distributed OMP_NUM_THREADS=1
    uv run python benchmarks/ranks.py equality [--pipelines baseline,rho1]
    uv run python benchmarks/ranks.py killing [--kills 30]
    uv run python benchmarks/ranks.py memory

equality  20 steps of every pipeline, in full and with LoRA, with 1 and 4 microbatches a rank and step on 4 ranks: the
          largest difference of a loss, in training or validation, to one rank's
killing   kill -9 at random instants of all pipelines in turn, with a checkpoint after every step: whether what they
          logged is to the last bit what an undisturbed run logs
memory    what a rank's resident memory grows by in two steps of a policy trained in full, of 1 rank and of 2
"""

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from group import CONTEXT, run_group, values
from runs import Case, prepare, records, start_of, train, train_all

from weighted_mtp.models.checkpoint import checkpoints_in, step_of
from weighted_mtp.progress import Advance, progress
from weighted_mtp.training.loop import Trainer

PIPELINES = ("baseline", "verifiable", "rho1", "critic", "ref_tuning")
GROUPS = {"2 full": (2, "full"), "2 ddp": (2, "ddp"), "4 full": (4, "full"), "4 ddp": (4, "ddp")}
app = typer.Typer(help=__doc__)


@app.command()
def equality(pipelines: Annotated[str, typer.Option(help="Of which pipelines.")] = ",".join(PIPELINES[:4])) -> None:
    """Losses of 20 steps on 1, 2 and 4 ranks."""
    storage = _prepared()
    names = pipelines.split(",")
    _quietly(1, storage, [_case(storage, "alone", *key) for key in _keys(names)])
    print("| pipeline | trained | microbatches | " + " | ".join(GROUPS) + " |\n|---|---|---|" + "---|" * len(GROUPS))
    with progress("runs", len(GROUPS)) as advance:
        for spread, (world, parallel) in GROUPS.items():
            more = f"runtime.parallel={parallel}"
            _quietly(world, storage, [_case(storage, spread, *key, more) for key in _keys(names)])
            advance()
    for key in _keys(names):
        one = _losses(storage, "alone", key)
        worst = [max(abs(a - b) for a, b in zip(one, _losses(storage, spread, key), strict=True)) for spread in GROUPS]
        print(f"| {key[0]} | {key[1]} | {key[2]} | " + " | ".join(f"{d:.1e}" for d in worst) + " |")


@app.command()
def killing(kills: Annotated[int, typer.Option(help="How many.")] = 30, seed: int = 0) -> None:
    """kill -9 at random instants."""
    storage, draw, left = _prepared(), random.Random(seed), kills
    options = ["training.save_every=1", "training.max_steps=10"]
    with progress("kills", kills) as advance:
        for number, pipeline in enumerate(PIPELINES):
            share = left // (len(PIPELINES) - number)
            whole, killed = ((pipeline, f"{pipeline}-{n}", [*start_of(storage, pipeline), *options]) for n in "wk")
            started = time.monotonic()
            _quietly(1, storage, [whole])
            pace = (time.monotonic() - started) / 10
            hits = sum(_killed_within_a_save(storage, killed, pace, draw, advance) for _ in range(share))
            _quietly(1, storage, [killed])
            same = records(storage / "runs" / killed[1]) == records(storage / "runs" / whole[1])
            print(f"{pipeline}: killed {share} times, {hits} while a checkpoint was being written: equal {same}")
            left -= share


def _killed_within_a_save(storage: Path, case: Case, pace: float, draw: random.Random, advance: Advance) -> bool:
    """Start or go on with a run, and kill it within a step's time after a checkpoint or two, or at its start."""
    folder = storage / "runs" / case[1] / "checkpoints"
    done = sum(map(step_of, checkpoints_in(folder)[-1:]))
    goal = min(done + draw.choice((0, 1, 1)), 9)
    process = CONTEXT.Process(target=train, args=(storage, *case))
    process.start()
    while process.is_alive() and sum(map(step_of, checkpoints_in(folder)[-1:])) < goal:
        time.sleep(0.002)
    process.join(draw.uniform(0, pace))
    process.kill()
    process.join()
    advance()
    return any(folder.glob(".step-*.partial"))


@app.command()
def memory() -> None:
    """Resident memory of a rank, 1 against 2."""
    storage = _prepared()
    for world, parallel in ((1, "full"), (2, "full"), (2, "ddp")):
        grown, parameters = zip(*values(run_group(world, _measured, storage, world, parallel)), strict=True)
        each = ", ".join(f"{g / 2**20:.0f} MiB" for g in grown)
        print(f"{world} rank(s), {parallel}: {each}; {parameters[0] / 1e6:.1f} M parameters")


def _measured(storage: Path, world: int, parallel: str) -> tuple[int, int]:
    """By how many bytes resident memory grows at most during steps, beyond what it was before the model was built."""
    options = [
        *("model.micro.hidden_size=512", "model.micro.intermediate_size=2048", "model.micro.num_attention_heads=8"),
        *("model.micro.num_hidden_layers=8", "training.max_steps=2", "data.validation=null"),
        *("model.source=micro", f"runtime.parallel={parallel}"),
    ]
    step, before, parameters = Trainer._step, _resident("VmRSS"), 0

    def measured(self: Trainer) -> dict[str, float]:
        nonlocal parameters
        if self.state.step == 0:
            parameters = sum(p.numel() for p in self.state.model.parameters())
            Path("/proc/self/clear_refs").write_text("5")  # the peak until here is of building the model
        return step(self)

    def not_saved(_: Trainer) -> None:
        pass

    Trainer._step, Trainer._save = measured, not_saved  # type: ignore[method-assign]
    train(storage, "baseline", f"memory-{world}-{parallel}", options)
    return _resident("VmHWM") - before, parameters


def _resident(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def _prepared() -> Path:
    storage = Path(tempfile.mkdtemp())
    values(run_group(1, prepare, storage))
    return storage


def _quietly(world: int, storage: Path, cases: Sequence[Case]) -> None:
    values(run_group(world, train_all, storage, cases))


Key = tuple[str, str, int]
"""Pipeline, what of it is trained, microbatches of a step."""


def _keys(pipelines: Sequence[str]) -> list[Key]:
    return [(p, trained, n) for p in pipelines for trained in ("full", "LoRA") for n in (4, 16)]


def _name(spread: str, key: Key) -> str:
    return "-".join([spread.replace(" ", "-"), *map(str, key)])


def _case(storage: Path, spread: str, key: Key, *more: str) -> Case:
    pipeline, trained, n = key
    lora = (["value.backbone=lora"] if pipeline == "critic" else ["model.lora.r=8"]) if trained == "LoRA" else []
    steps = ["training.max_steps=20", f"training.gradient_accumulation={n}"]
    return pipeline, _name(spread, key), [*start_of(storage, pipeline), *steps, *lora, *more]


def _losses(storage: Path, spread: str, key: Key) -> list[float]:
    return [record["loss"] for record in records(storage / "runs" / _name(spread, key))]


if __name__ == "__main__":
    app()
