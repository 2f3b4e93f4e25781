"""The gate: pilots judged by executed programs, the strength that they settle, and what it refuses."""

import json
from pathlib import Path

import pytest
from method_storage import Storage, error_of, new_storage, weights

from weighted_mtp.data.load import SplitsConfig
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.evaluation.config import LabelOptions
from weighted_mtp.evaluation.own_programs import read_evaluation, write_labelled
from weighted_mtp.evaluation.pass_at_k import Estimate
from weighted_mtp.evaluation.samples import write_jsonl
from weighted_mtp.pipelines.gate import best_strength, evaluation_of_programs
from weighted_mtp.training.updates import Updates


def executed(storage: Storage, name: str, temperature: float = 1.0, keep_failed: bool = True) -> Path:
    """An evaluation as a policy that writes the benchmark's own programs would have it."""
    folder, split = storage.folder / name, storage.folder / "datasets" / "micro" / "validation"
    folder.mkdir()
    problems = {problem.problem_id: problem for problem in read_problems(split)}
    rows = [
        {"task_id": s.problem_id, "solution": s.code, "passed": s.is_correct, "finished": "eos"}
        for s in read_solutions(split)
        if s.is_correct or keep_failed
    ]
    write_jsonl(folder / "results.jsonl", rows)
    config = {
        "benchmark": "micro",
        "split": "validation",
        "data_root": str(storage.folder / "datasets"),
        "sampling": {"temperature": temperature},
    }
    manifest = json.loads((split.parent / "manifest.json").read_text())
    checksum = next(f["sha256"] for name, f in manifest["files"].items() if name == "validation/problems.parquet")
    (folder / "report.json").write_text(json.dumps({"config": config, "problems_sha256": checksum}))
    assert {row["task_id"] for row in rows} == problems.keys()
    return folder


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = new_storage(tmp_path_factory.mktemp("storage"))
    storage.train("baseline", "policy", "model.source=micro")
    executed(storage, "programs")
    return storage


def gate_of(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())["gate"]


def test_what_is_predicted_is_said_and_kept_and_changes_nothing(storage: Storage) -> None:
    gate = [f"gate.programs={storage.folder}/programs", "gate.steps=2", "loss.confidence=null"]
    result = storage.command("verifiable", "gated", *storage.from_critic("outcome"), *gate)
    assert result.exit_code == 0, result.output
    with_it, without = storage.run("gated"), storage.verifiable("ungated")
    assert weights(with_it) == weights(without)
    said = gate_of(with_it)
    assert (said["strength"], said["steps"], [*said["predicted"]]) == (1.0, 2, ["1"])
    predicted = said["predicted"]["1"]
    assert predicted["low"] < predicted["value"] < predicted["high"]
    assert predicted["value"] != 0
    assert "gate" not in json.loads((without / "run.json").read_text())
    output = result.output.replace("\n", " ")
    assert "gate: strength 1: " in output
    assert "2 steps each, over uniform weights, on 40 executed programs for 10 problems at temperature 1" in output


def test_pilots_take_the_steps_that_they_are_given(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    step, taken = Updates.step, list[int]()

    def counted(self: Updates) -> dict[str, float]:
        taken.append(self.state.step)
        return step(self)

    monkeypatch.setattr(Updates, "step", counted)
    storage.verifiable("counted", f"gate.programs={storage.folder}/programs", "gate.steps=3")
    assert taken == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3]  # without weights, with them, and the run


def test_auto_takes_the_strength_that_is_predicted_to_be_best_and_keeps_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = [f"gate.programs={storage.folder}/programs", "gate.steps=2"]
    run = storage.verifiable("auto", "weighting.strength=auto", *gate)
    said = gate_of(run)
    values = {float(strength): gain["value"] for strength, gain in said["predicted"].items()}
    assert [*values] == [0.0, 0.5, 1.0]
    assert values[0.0] == 0.0  # without confidence, weights of no strength are uniform
    assert said["strength"] == best_strength({float(s): Estimate(**gain) for s, gain in said["predicted"].items()})
    assert weights(run) == weights(storage.verifiable("as-auto", f"weighting.strength={said['strength']}"))
    monkeypatch.setattr("weighted_mtp.pipelines.run_verifiable.predicted_gains", None)
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.rename(storage.folder / checkpoint.name)
    storage.verifiable("auto", "weighting.strength=auto", *gate)
    assert gate_of(run) == said


def test_only_a_gain_that_is_clear_of_zero_gives_weights_strength() -> None:
    uniform, unclear = Estimate(0.0, 0.0, 0.0), Estimate(0.3, -0.1, 0.7)
    clear, larger = Estimate(0.1, 0.05, 0.15), Estimate(0.2, 0.1, 0.3)
    assert best_strength({0.0: uniform, 0.5: unclear, 1.0: unclear}) == 0.0
    assert best_strength({0.0: uniform, 0.5: clear, 1.0: unclear}) == 0.5
    assert best_strength({0.0: uniform, 0.5: clear, 1.0: larger}) == 1.0


def test_the_critics_own_programs_are_taken_where_none_are_named(storage: Storage) -> None:
    dataset = storage.folder / "datasets" / "own"
    write_labelled(dataset, [read_evaluation(storage.folder / "programs")], LabelOptions())
    data = SplitsConfig(root=dataset.parent, dataset=("micro", "own"))
    assert evaluation_of_programs(None, data).folder == storage.folder / "programs"
    assert evaluation_of_programs(dataset, data).folder == storage.folder / "programs"


@pytest.mark.parametrize(
    ("name", "temperature", "keep_failed", "expected"),
    [("greedy", 0.0, True, "are greedy; sample more"), ("passing", 1.0, False, "fewer than two problems have both")],
)
def test_programs_that_tell_nothing_are_one_line(
    storage: Storage, name: str, temperature: float, keep_failed: bool, expected: str
) -> None:
    folder = executed(storage, name, temperature, keep_failed)
    options = [*storage.from_critic("outcome"), f"gate.programs={folder}"]
    assert expected in error_of(storage.command("verifiable", "x", *options))
    assert not storage.run("x").exists()


def test_a_gate_without_programs_and_auto_without_gate_are_one_line(storage: Storage) -> None:
    of_critic = storage.from_critic("outcome")
    assert "set gate.programs to an evaluation" in error_of(storage.command("verifiable", "x", *of_critic, "gate={}"))
    message = error_of(storage.command("verifiable", "x", *of_critic, "weighting.strength=auto"))
    assert "set gate={}, or a strength" in message
    assert not storage.run("x").exists()
