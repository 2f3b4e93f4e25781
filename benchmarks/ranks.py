"""Training on several ranks against training on one: equal losses, runs that are killed. gloo, one machine.

    export PYTHONPATH=tests/distributed OMP_NUM_THREADS=1
    uv run python benchmarks/ranks.py equality [--pipelines baseline,rho1]
    uv run python benchmarks/ranks.py killing [--kills 30]

equality  20 steps of every pipeline, in full and with LoRA, of 4 and of 8 microbatches over all ranks (what 4 ranks can
          share: 1 and 2 each; 2 ranks take 2 and 4): the largest difference of a loss, in training or validation, to
          one rank's; and of anything else that is logged, such as the weights that the moments give, relative to it
killing   kill -9 at random instants of all pipelines in turn, with a checkpoint after every step: whether what they
          logged is to the last bit what an undisturbed run logs
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

PIPELINES = ("baseline", "verifiable", "rho1", "critic", "ref_tuning")
GROUPS = {"2 full": (2, "full"), "2 ddp": (2, "ddp"), "4 full": (4, "full"), "4 ddp": (4, "ddp")}
app = typer.Typer(help=__doc__)


@app.command()
def equality(pipelines: Annotated[str, typer.Option(help="Of which pipelines.")] = ",".join(PIPELINES[:4])) -> None:
    """Losses of 20 steps on 1, 2 and 4 ranks."""
    storage, names = _prepared(64), pipelines.split(",")  # an epoch has more microbatches than a step
    print("| pipeline | trained | microbatches | " + " | ".join(GROUPS) + " |\n|---|---|---|" + "---|" * len(GROUPS))
    with progress("runs", len(names) * (1 + len(GROUPS))) as advance:
        for name in names:
            for spread, (world, parallel) in {"alone": (1, "full"), **GROUPS}.items():
                more = f"runtime.parallel={parallel}"
                _quietly(world, storage, [_case(storage, spread, key, more) for key in _keys(name)])
                advance()
            for key in _keys(name):
                cells = [_differences(storage, spread, key) for spread in GROUPS]
                row = [*map(str, key), *(f"{a:.0e}, {b:.0e}" for a, b in cells)]
                print(f"| {' | '.join(row)} |", flush=True)


@app.command()
def killing(kills: Annotated[int, typer.Option(help="How many.")] = 30, seed: int = 0) -> None:
    """kill -9 at random instants."""
    storage, draw, left = _prepared(16), random.Random(seed), kills
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


def _prepared(problems: int) -> Path:
    storage = Path(tempfile.mkdtemp())
    values(run_group(1, prepare, storage, problems))
    return storage


def _quietly(world: int, storage: Path, cases: Sequence[Case]) -> None:
    values(run_group(world, train_all, storage, cases))


Key = tuple[str, str, int]
"""Pipeline, what of it is trained, microbatches of a step."""


def _keys(pipeline: str) -> list[Key]:
    return [(pipeline, trained, n) for trained in ("full", "LoRA") for n in (4, 8)]


def _name(spread: str, key: Key) -> str:
    return "-".join([spread.replace(" ", "-"), *map(str, key)])


def _case(storage: Path, spread: str, key: Key, *more: str) -> Case:
    pipeline, trained, n = key
    lora = (["value.backbone=lora"] if pipeline == "critic" else ["model.lora.r=8"]) if trained == "LoRA" else []
    steps = ["training.max_steps=20", "training.validate_every=10", f"training.gradient_accumulation={n}"]
    fast = ["optim.lr=1e-2", "data.max_tokens=256"]
    return pipeline, _name(spread, key), [*start_of(storage, pipeline), *steps, *fast, *lora, *more]


def _differences(storage: Path, spread: str, key: Key) -> tuple[float, float]:
    """To one rank's run, at most: of a loss, and of any other value, relative where it is above 1."""
    one, several = (records(storage / "runs" / _name(name, key)) for name in ("alone", spread))
    losses, others = [0.0], [0.0]
    for a, b in zip(one, several, strict=True):
        for name in a.keys() - {"split"}:
            found = losses if name == "loss" else others
            found.append(abs(a[name] - b[name]) / (1 if name == "loss" else max(1, abs(a[name]))))
    return max(losses), max(others)


if __name__ == "__main__":
    app()
