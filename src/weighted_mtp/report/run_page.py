"""The page of a training run: what ran it, what a critic learned, its curves, and its programs token by token."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from markupsafe import Markup

from weighted_mtp.report.curves import OF_CRITICS, Curve, cells, read_metrics
from weighted_mtp.report.figures import MOST_LINES, Bin, curves, reliability_diagram
from weighted_mtp.report.links import Link
from weighted_mtp.report.page import write_html
from weighted_mtp.report.token_page import ShownPrograms, section
from weighted_mtp.training.run_directory import Record

_POINTS = 400  # of a curve; a screen shows no more
_ROWS = 12  # of a table of validations
_NO_CURVE = {"step", "split", "seconds", "epoch"}
_BINS = "calibration/"  # of metrics that are a figure of their own


@dataclass(frozen=True)
class Panel:
    """What is said of a metric, and the value to compare it with: of chance, or of uniform weights."""

    explanation: str
    level: float | None = None


SECTIONS: dict[str, dict[str, Panel]] = {
    "Loss": {
        "loss": Panel("what is minimised; at validation without weights"),
        "ce": Panel("cross-entropy without weights, nats per token"),
        "weighted_ce": Panel("cross-entropy with weights, nats per token"),
    },
    "Critic": {
        "pair_accuracy": Panel("pairs whose correct program is ranked above; chance: 0.5", 0.5),
        "localisation_auc": Panel("other tokens with a higher δ than the first wrong one; chance: 0.5", 0.5),
        "drift": Panel("mean δ of correct programs' tokens; near 0 for a good critic", 0.0),
        "brier": Panel("squared error of P(success); 0.25 for always saying 0.5", 0.25),
        "calibration_error": Panel("distance of P(success) from what happened"),
    },
    "Weights": {
        "weight": Panel("mean weight of a target, times confidence if that is on", 1.0),
        "weight/std": Panel("standard deviation; 0 for uniform weights", 0.0),
        "weight/effective_share": Panel("share of the targets that count, (Σw)² / n Σw²; 1 for uniform weights", 1.0),
        "weight/clipped_share": Panel("weights at their least or greatest value"),
        "weight/semantic": Panel("share of semantic tokens: in the weight, and among the tokens"),
    },
    "Drafts": {"acceptance": Panel("how often a head's greedy token is what head 1 says later")},
}
"""Section of a page → metric → its panel; what is not here stands under "Further"."""

_JOINED = {
    "weight/semantic_share": ("weight/semantic", "of the weight"),
    "weight/semantic_token_share": ("weight/semantic", "of the tokens"),
    "weight/mean": ("weight", "all heads"),
}
"""Metric → the panel that it shares, and its line there."""


def write_run_page(
    folder: Path,
    options: Mapping[str, Any],
    output: Path,
    shown: ShownPrograms | None = None,
    notes: Sequence[str] = (),
    links: Sequence[Link] = (),
) -> Path:
    """Write the page of a run, finished or not; returns the file.

    options  those that differ from their defaults
    shown    its programs, token by token
    notes    what else there is to say of it

    Raises UserError if it has no metrics.
    """
    records = read_metrics(folder)
    validations = [record for record in records if record["split"] == "validation"]
    values = {
        "title": str(options.get("run.name", folder.name)),
        "kind": f"run: {options['pipeline'].replace('_', ' ')}" if "pipeline" in options else "run",
        "options": options,
        "facts": _facts(folder, records),
        "sections": _sections(panels_of(records)),
        "calibration": _calibration(validations),
        "validations": _table(validations),
        "shown": section(shown) if shown else None,
        "notes": notes,
        "links": links,
    }
    return write_html(output, "run.html", values, "tokens.js" if shown else None)


def panels_of(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Panel → name of a line → curve: `ce/head1` and `ce/head2` share a panel, as training and validation do.

    Values that are not finite are left out; of long curves every n-th point stays.
    """
    found: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        for key, value in record.items():
            if key in _NO_CURVE or not isinstance(value, int | float) or not isfinite(value):
                continue
            if key.startswith(_BINS):
                continue
            metric, line = _JOINED.get(key) or _of_head(key)
            found.setdefault(metric, {}).setdefault(f"{line} · {record['split']}", {})[record["step"]] = value
    return {
        metric: {name: _thinned(line) for name, line in [*lines.items()][:MOST_LINES]}
        for metric, lines in found.items()
    }


def _of_head(key: str) -> tuple[str, str]:
    metric, head, number = key.partition("/head")
    return (metric, f"head {number}") if head and number.isdigit() else (key, "all")


def _thinned(line: Mapping[int, float]) -> dict[int, float]:
    steps = sorted(line)
    kept = {*steps[:: -(-len(steps) // _POINTS)], steps[-1]}
    return {step: line[step] for step in sorted(kept)}


def _sections(panels: Mapping[str, Mapping[str, Curve]]) -> dict[str, list[tuple[str, str, Markup]]]:
    """Section → metric, explanation and figure of its panels, of those that the run has."""
    named = {metric for known in SECTIONS.values() for metric in known}
    further = {metric: Panel("") for metric in panels if metric not in named}
    found = {}
    for title, known in (SECTIONS | {"Further": further}).items():
        if there := [metric for metric in known if metric in panels]:
            found[title] = [(m, known[m].explanation, _figure(panels[m], known[m].level)) for m in there]
    return found


def _figure(lines: Mapping[str, Curve], level: float | None) -> Markup:
    return curves(lines, frozenset(name for name in lines if name.endswith("validation")), level)


def _calibration(validations: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The first, the middle and the last calibration of a critic; None if it logged none."""
    logged = [(record["step"], bins) for record in validations if (bins := _bins(record))]
    if not logged:
        return None
    chosen = dict([logged[0], logged[len(logged) // 2], logged[-1]])
    of_pairs = "brier" not in validations[-1]
    return {
        "of_pairs": of_pairs,
        "figure": reliability_diagram(
            {f"step {step}": bins for step, bins in chosen.items()}, 0.5 if of_pairs else 0.0
        ),
    }


def _bins(record: Mapping[str, Any]) -> list[Bin]:
    numbers = [int(key.split("/bin")[1].split("/")[0]) for key in record if key.startswith(_BINS) and "happened" in key]
    return [
        Bin(*(record[f"{_BINS}bin{n}/{what}"] for what in ("predicted", "happened", "share"))) for n in sorted(numbers)
    ]


def _table(validations: Sequence[Record]) -> dict[str, Any] | None:
    """A critic's validations as a table, at most `_ROWS` of them; None of another run."""
    known = (*OF_CRITICS, "calibration_error")
    columns = [name for name in known if any(name in record for record in validations)]
    if not columns:
        return None
    kept = {*range(0, len(validations), -(-len(validations) // _ROWS)), len(validations) - 1}
    rows = [(f"{validations[n]['step']:,}", *cells(validations[n], columns)) for n in sorted(kept)]
    return {"header": ["step", *(name.replace("_", " ") for name in columns)], "rows": rows}


def _facts(folder: Path, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    file = folder / "run.json"
    run = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    facts = {"optimizer steps": f"{max((r['step'] for r in records), default=0):,}"}
    if run.get("starts"):
        facts["started"] = ", ".join(map(str, run["starts"]))
    if run.get("pairs"):
        facts["pairs"] = ", ".join(f"{number:,} {split}" for split, number in run["pairs"].items())
    for key in ("git_sha", "python", "platform", "ranks"):
        if run.get(key) is not None:
            facts[key.replace("_", " ")] = str(run[key])
    return facts | {f"package {name}": str(version) for name, version in (run.get("packages") or {}).items()}
