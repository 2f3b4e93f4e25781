"""What speaks against a critic, said before a policy takes its weights."""

import json
from pathlib import Path

from weighted_mtp.evaluation.pass_at_k import wilson
from weighted_mtp.report.curves import read_metrics

FEW_PAIRS = 100
CHANCE = 0.5


def doubts(run: Path) -> list[str]:
    """A line for each reason to doubt what a critic's run learned: few pairs, or no better than chance on others.

    The accuracy is that of the run's last validation.
    """
    pairs = _pairs(run)
    lines = []
    if 0 < (learned_from := pairs.get("train", 0)) < FEW_PAIRS:
        lines.append(f"critic {run}: learned from {learned_from} pairs; that is few, so get more of them")
    held_out = [record["pair_accuracy"] for record in read_metrics(run, "validation")]
    if not held_out:
        return [*lines, f"critic {run}: was never validated, so nothing says that it is better than chance"]
    return lines + _against_chance(run, held_out[-1], pairs.get("validation", 0))


def _against_chance(run: Path, accuracy: float, n: int) -> list[str]:
    measured = f"critic {run}: pair_accuracy {accuracy:.2f} on {n} held-out pairs"
    low, high = wilson(accuracy, n, 0.95) if n else (0.0, 1.0)
    if accuracy <= CHANCE:
        return [f"{measured} is no better than chance: weights from it are noise; train it on more pairs, or longer"]
    if low <= CHANCE:
        return [f"{measured} (95 % interval {low:.2f} to {high:.2f}) may be chance; compare with control=shuffled"]
    return []


def _pairs(run: Path) -> dict[str, int]:
    file = run / "run.json"
    return json.loads(file.read_text()).get("pairs", {}) if file.is_file() else {}
