"""The loop: resuming changes nothing, a non-finite loss stops it, a signal saves."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from weighted_mtp.data.batches import Batch, TokenStore, collate
from weighted_mtp.data.stream import BatchStream
from weighted_mtp.errors import UserError
from weighted_mtp.losses.mtp_loss import LossConfig
from weighted_mtp.losses.objective import PolicyObjective, Sums
from weighted_mtp.models.checkpoint import checkpoints_in, newest_model, step_of
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.section import Section
from weighted_mtp.training.loop import Trainer, TrainingConfig
from weighted_mtp.training.optim import Group, OptimConfig, build_optimizer
from weighted_mtp.training.run_directory import RunDirectory
from weighted_mtp.training.state import Best, Checkpoints, TrainState
from weighted_mtp.training.tracking import Tracked, Tracker
from weighted_mtp.training.updates import NonFiniteError, Updates
from weighted_mtp.value_weighting.controls import Uniform


class Settings(Section):
    name: str = "test"


def random_store(n: int = 24) -> TokenStore:
    generator = np.random.default_rng(0)
    lengths = generator.integers(6, 12, n)
    ids = generator.integers(0, 19, lengths.sum()).astype(np.int32)
    marks = np.zeros(len(ids), np.uint8)
    return TokenStore.contiguous(ids, marks, np.full(n, 3), lengths, [f"s{i}" for i in range(n)])


def small_policy() -> MTPForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=19,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_dropout=0.1,
        tie_word_embeddings=True,
    )
    return MTPForCausalLM.from_base(LlamaForCausalLM(config), 3, "random")


class Remembering(Uniform):
    """A weighting with state, to see it resumed and left alone by validation."""

    def initial_state(self) -> dict[str, torch.Tensor]:
        return {"seen": torch.tensor(0)}

    def __call__(
        self, batches: list[Batch], state: dict[str, torch.Tensor]
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        weights, _ = super().__call__(batches, state)
        return weights, {"seen": state["seen"] + len(batches)}


def checkpoints(folder: Path, model: MTPForCausalLM, keep: int = 2, best: Best | None = None) -> Checkpoints:
    return Checkpoints(folder, lambda: model, lambda whole, path: whole.save_pretrained(path), keep, best)


def trainer(folder: Path, steps: int = 6, fresh: bool = False, **changes: object) -> Trainer:
    model, store = small_policy(), random_store()
    optim = OptimConfig(warmup_steps=2, lr=1e-2)
    groups = [Group("trunk", model.trunk_parameters(), 1e-2, 2), Group("heads", model.head_parameters(), 2e-2)]
    objective = PolicyObjective(Remembering(), LossConfig())
    state = TrainState(model, build_optimizer(groups, optim), objective.initial_state())
    run = RunDirectory(folder, Settings())
    found = checkpoints_in(run.checkpoints)
    if found and not fresh:
        state.load(found[-1] / "state")
    updates = Updates(
        state=state,
        objective=objective,
        stream=BatchStream(store, 40, 2, seed=3),
        optim=optim,
        max_steps=steps,
        device=torch.device("cpu"),
        forward_context=nullcontext,
        seed=3,
        reports=folder,
    )
    parts = {
        "updates": replace(updates, **{name: changes.pop(name) for name in ("state", "objective") if name in changes}),
        "validation": [collate(store, np.arange(4))],
        "config": TrainingConfig(max_steps=steps, gradient_accumulation=2, validate_every=2, save_every=100),
        "tracker": Tracker(run, Tracked(tracking=()), state.step),
        "checkpoints": checkpoints(run.checkpoints, model),
    }
    return Trainer(**{**parts, **changes})


def records(folder: Path) -> list[dict]:
    kept = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in kept]


class AfterSteps(PolicyObjective):
    """A signal that comes while a given step runs."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        super().__init__(Remembering(), LossConfig())
        self.step, self.act, self.calls = step, act, 0

    def sums(self, model, item) -> Sums:
        self.calls += model.training
        if self.calls == self.step:
            self.act()
        return super().sums(model, item)


def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one_to_the_last_bit(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    assert whole.run()
    stopping = AfterSteps(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    first = trainer(tmp_path / "parts", objective=stopping)
    assert not first.run()
    assert 0 < first.state.step < 6
    second = trainer(tmp_path / "parts")
    assert second.state.step == first.state.step
    assert second.run()
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    for a, b in zip(whole.state.model.parameters(), second.state.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_killed_before_its_first_checkpoint_leaves_no_record_behind(tmp_path: Path) -> None:
    killed = trainer(tmp_path)
    killed.tracker.log(0, "validation", {"loss": 1.0})
    killed.tracker.log(1, "train", {"loss": 1.0})
    trainer(tmp_path)
    assert records(tmp_path) == []


def test_objective_state_is_resumed_and_validation_leaves_it_alone(tmp_path: Path) -> None:
    first = trainer(tmp_path, steps=3)
    first.run()
    seen = int(first.state.objective["seen"])
    assert seen == sum(len(first.updates.stream.at(s)) for s in range(3))
    assert trainer(tmp_path).state.objective["seen"] == seen


def test_each_sample_is_seen_once_an_epoch_whatever_step_is_asked_for_first() -> None:
    stream = BatchStream(random_store(), 40, 2, seed=1)
    forward = [sorted(b.sample_ids.tolist() for b in stream.at(s)) for s in range(12)]
    backward = [sorted(b.sample_ids.tolist() for b in stream.at(s)) for s in reversed(range(12))][::-1]
    assert forward == backward
    steps = BatchStream(random_store(), 40, 2, seed=1).steps_per_epoch()
    assert sorted(i for step in forward[:steps] for b in step for i in b) == list(range(24))


def test_frozen_groups_do_not_move_until_their_step(tmp_path: Path) -> None:
    run = trainer(tmp_path, steps=2)
    before = [p.detach().clone() for p in run.state.model.trunk_parameters()]
    heads = [p.detach().clone() for p in run.state.model.head_parameters()]
    run.run()
    assert all(torch.equal(a, b) for a, b in zip(before, run.state.model.trunk_parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(heads, run.state.model.head_parameters(), strict=True))


def test_a_non_finite_loss_stops_before_the_update_and_names_the_samples(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    poisoned = AfterSteps(3, lambda: next(run.state.model.parameters()).data.fill_(float("nan")))
    run = trainer(tmp_path, objective=poisoned, state=run.state)
    with pytest.raises(NonFiniteError, match=r"step 1: loss nan"):
        run.run()
    report = json.loads((tmp_path / "non-finite-step-1.json").read_text())
    assert set(report["samples"]) <= {f"s{i}" for i in range(24)}
    assert report["samples"]
    assert run.state.step == 1


class Gaps(PolicyObjective):
    """Reports a vector whose entries differ in sign between batches."""

    def sums(self, model, item) -> Sums:
        sums = super().sums(model, item)
        gap = -3.0 if item.batch.sample_ids[0] == 0 else 1.0
        return Sums(sums.loss, sums.count, {"gaps": (torch.tensor([gap, -1.0]), torch.tensor(2))})


def test_a_vector_is_summed_over_batches_before_its_absolute_values(tmp_path: Path) -> None:
    validation = [collate(random_store(), np.arange(start, start + 4)) for start in (0, 4)]
    run = trainer(tmp_path, objective=Gaps(Uniform(), LossConfig()), validation=validation)
    assert run.updates.evaluate(validation)["gaps"] == (abs(-3 + 1) + abs(-1 - 1)) / 4


def test_only_the_newest_checkpoints_are_kept_and_the_model_in_them_loads(tmp_path: Path) -> None:
    config = TrainingConfig(max_steps=5, validate_every=9, save_every=1, save_total_limit=2)
    run = trainer(tmp_path, config=config)
    run.run()
    found = checkpoints_in(tmp_path / "checkpoints")
    assert [p.name for p in found] == ["step-00000004", "step-00000005"]
    loaded = MTPForCausalLM.from_pretrained(found[-1] / "model")
    for a, b in zip(run.state.model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_truncated_state_is_one_clear_line(tmp_path: Path) -> None:
    trainer(tmp_path, steps=1).run()
    state = checkpoints_in(tmp_path / "checkpoints")[-1] / "state"
    for file in state.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="not a complete training state") as raised:
        trainer(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_newest_checkpoint_is_set_aside_loudly_and_the_one_before_it_taken(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainingConfig(max_steps=3, validate_every=9, save_every=1, save_total_limit=2)
    run = trainer(tmp_path, config=config)
    run.run()
    file = next((checkpoints_in(tmp_path / "checkpoints")[-1] / "state").glob("*.distcp"))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "changed":
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    else:
        file.unlink()
    again = trainer(tmp_path, fresh=True)
    assert again.checkpoints.resume(again.state)
    assert again.state.step == 2
    assert "DAMAGED CHECKPOINT" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["damaged-step-00000003", "step-00000002"]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew_silently(tmp_path: Path) -> None:
    run = trainer(tmp_path, steps=1)
    run.run()
    (checkpoints_in(tmp_path / "checkpoints")[-1] / "manifest.json").unlink()
    for _ in range(2):
        with pytest.raises(UserError, match="all checkpoints are damaged"):
            run.checkpoints.resume(run.state)


def test_a_failed_save_leaves_no_checkpoint_behind(tmp_path: Path) -> None:
    def whole() -> MTPForCausalLM:
        return run.state.model

    def full(_model: MTPForCausalLM, _path: Path) -> None:
        raise OSError(28, "No space left on device")

    run = trainer(tmp_path, steps=1)
    run = trainer(tmp_path, steps=1, checkpoints=Checkpoints(run.checkpoints.directory, whole, full, 2))
    with pytest.raises(UserError, match=r"could not be written .*No space"):
        run.run()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_another_configuration_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    RunDirectory(tmp_path, Settings())
    with pytest.raises(UserError, match="name: test → other"):
        RunDirectory(tmp_path, Settings(name="other"))


@pytest.mark.parametrize(("mode", "kept"), [("min", [3, 5, 6]), ("max", [2, 5, 6])])
def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path, mode: str, kept: list[int]) -> None:
    state = trainer(tmp_path).state
    kept_there = checkpoints(tmp_path / "checkpoints", state.model, best=Best("loss", mode))
    for step, loss in enumerate([2.0, 4.0, 1.0, 3.0, float("nan"), None], start=1):  # None: saved without validation
        state.step = step
        kept_there.save(state, None if loss is None else {"loss": loss})
    assert [step_of(path) for path in checkpoints_in(tmp_path / "checkpoints")] == kept
    assert (tmp_path / "checkpoints" / "best").resolve().name == f"step-{kept[0]:08d}"
    assert newest_model(tmp_path / "checkpoints" / "best").is_dir()


def test_an_unknown_best_metric_ends_the_run_before_its_first_step(tmp_path: Path) -> None:
    state = trainer(tmp_path).state
    told = checkpoints(tmp_path / "checkpoints", state.model, best=Best("accuracy", "max"))
    with pytest.raises(UserError, match=r"training.best_metric=accuracy is no metric .* use one of loss, "):
        trainer(tmp_path, checkpoints=told).run()
    assert not checkpoints_in(tmp_path / "checkpoints")


def test_a_run_keeps_the_checkpoint_of_its_best_validation(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    best = Best("loss", "max")  # the loss falls: the first checkpoint is the one
    told = checkpoints(tmp_path / "checkpoints", run.state.model, 1, best)
    config = run.config.model_copy(update={"save_every": 2})
    trainer(tmp_path, state=run.state, checkpoints=told, config=config).run()
    losses = {r["step"]: r["loss"] for r in records(tmp_path) if r["split"] == "validation" and r["step"]}
    assert [step_of(path) for path in checkpoints_in(tmp_path / "checkpoints")] == [max(losses, key=losses.get), 6]
