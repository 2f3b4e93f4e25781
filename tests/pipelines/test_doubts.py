"""What is said of a critic before a policy takes its weights."""

import json
from pathlib import Path

import pytest
from method_storage import new_storage

from weighted_mtp.pipelines.doubts import doubts


def critic(run: Path, accuracies: list[float], train: int = 5000, validation: int = 200) -> Path:
    """A critic's folder, as far as its doubts go."""
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"pairs": {"train": train, "validation": validation}}))
    records = [{"step": 0, "split": "train", "pair_accuracy": 1.0}]
    records += [{"step": i, "split": "validation", "pair_accuracy": value} for i, value in enumerate(accuracies)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


@pytest.mark.parametrize(
    ("accuracies", "validation", "said"),
    [
        ([0.5, 0.8], 200, []),
        ([0.8, 0.5], 200, ["pair_accuracy 0.50 on 200 held-out pairs is no better than chance"]),
        ([0.0], 2, ["pair_accuracy 0.00 on 2 held-out pairs is no better than chance"]),
        ([0.55], 200, ["(95 % interval 0.48 to 0.62) may be chance"]),
        ([1.0], 3, ["(95 % interval 0.44 to 1.00) may be chance"]),
        ([], 0, ["was never validated"]),
    ],
)
def test_a_critic_that_may_know_nothing_is_named(
    tmp_path: Path, accuracies: list[float], validation: int, said: list[str]
) -> None:
    found = doubts(critic(tmp_path / "critic", accuracies, validation=validation))
    assert len(found) == len(said)
    assert all(text in line for text, line in zip(said, found, strict=True))


def test_few_pairs_are_named(tmp_path: Path) -> None:
    (line,) = doubts(critic(tmp_path / "critic", [0.9], train=4))
    assert "learned from 4 pairs" in line


def test_a_policy_says_the_doubts_about_its_critic_before_it_trains(tmp_path: Path) -> None:
    storage = new_storage(tmp_path)
    storage.train("baseline", "policy", "model.source=micro")
    few = storage.train("critic", "few", f"value.source={storage.run('reference')}", "data.pairs.n_pairs=12")
    assert json.loads((few / "run.json").read_text())["pairs"]["train"] == 12
    result = storage.command("verifiable", "weighted", *storage.from_critic("few"), "loss.confidence=null")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    (said,) = [number for number, line in enumerate(lines) if "learned from 12 pairs" in line]
    (begun,) = [number for number, line in enumerate(lines) if "steps per epoch" in line]
    assert said < begun
