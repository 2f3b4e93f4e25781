"""Ten losses of every pipeline on a tiny fixed run, compared with those in `losses/`: a change that moves them shows.

    uv run pytest tests/golden                    compare
    uv run pytest tests/golden --rewrite-golden   write them again; the commit says why they moved

They catch what invariants cannot: a default that changed, another order of batches or draws, a scale factor.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from method_storage import Storage, new_storage, records
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.value_weighting.base import ObjectiveState
from weighted_mtp.value_weighting.controls import Uniform

LOSSES = Path(__file__).parent / "losses"
TOLERANCE = 1e-4
"""Relative: what other CPUs may differ by; docs/LOG.md has what was measured."""
TEN_STEPS = ("training.max_steps=10", "training.validate_every=10", "training.save_every=10", "optim.lr=5e-3")
RUNS = {
    "ref_tuning": (),
    "baseline": ("model.source=micro",),
    "critic_outcome": ("critic.objective=outcome",),
    "critic_pairwise_ranking": ("critic.objective=pairwise_ranking",),
    "critic_lambda_return": ("critic.objective=lambda_return", "value.head=sigmoid"),
    "critic_implicit": ("critic.objective=implicit",),
    "verifiable": ("critic=@/outcome",),
    "rho1": ("reference=@/reference",),
    "third_party": ("token_weighting=rising",),
}


class Rising(Uniform):
    """A weighting of another package: a token's weight is its place in the row, from 1."""

    def __call__(self, batches: Sequence[Batch], state: ObjectiveState) -> tuple[list[Tensor], ObjectiveState]:
        weights, state = super().__call__(batches, state)
        return [w * torch.arange(1, w.shape[1] + 1) for w in weights], state


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """Data, a reference, a policy of four heads, a critic; and another package's weighting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "weighted_mtp.pipelines.run_third_party.weighting_named",
            {"rising": lambda _policy: Rising()}.get,
        )
        made = new_storage(tmp_path_factory.mktemp("golden"))
        made.train("baseline", "policy", "model.source=micro")
        yield made


def losses_of(storage: Storage, name: str) -> list[float]:
    """The training loss of each step."""
    pipeline = "critic" if name.startswith("critic") else name
    start = {
        "critic": ["value.source=@/reference"],
        "ref_tuning": [],
        "baseline": [],
    }.get(pipeline, ["model.source=@/policy"])
    options = [option.replace("@", str(storage.folder / "runs")) for option in (*start, *TEN_STEPS, *RUNS[name])]
    run = storage.train(pipeline.replace("_", "-"), f"golden_{name}", *options)
    return [record["loss"] for record in records(run, "train")]


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_that_were_written_down(storage: Storage, name: str, request: pytest.FixtureRequest) -> None:
    losses, file = losses_of(storage, name), LOSSES / f"{name}.txt"
    assert len(losses) == 10
    if request.config.getoption("--rewrite-golden"):
        file.write_text("".join(f"{loss:.7g}\n" for loss in losses))
    assert losses == pytest.approx([float(line) for line in file.read_text().splitlines()], rel=TOLERANCE)


def test_every_list_of_losses_is_compared() -> None:
    assert {file.stem for file in LOSSES.iterdir()} == set(RUNS)
