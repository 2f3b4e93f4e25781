"""The page of a training run: options that differ from their defaults, what ran it, and its curves."""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from weighted_mtp.report.curves import Curve, read_metrics
from weighted_mtp.report.figures import curves
from weighted_mtp.report.page import write

_POINTS = 400  # of a curve; a screen shows no more
_NO_CURVE = {"step", "split", "seconds", "epoch"}
_MOST_LINES = 12  # six colours, solid and dashed


def write_run_page(folder: Path, options: Mapping[str, Any], output: Path) -> Path:
    """Write the page of a run, finished or not; returns the file.

    options  those that differ from their defaults

    Raises UserError if it has no metrics.
    """
    records = read_metrics(folder)
    panels = panels_of(records)
    values = {
        "title": folder.name,
        "kind": "run",
        "options": options,
        "facts": _facts(folder, records),
        "panels": [
            (title, curves(lines, dashed=frozenset(name for name in lines if name.endswith("validation"))))
            for title, lines in panels.items()
        ],
    }
    return write(output, "run.html", values)


def panels_of(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Metric → name of a line → curve: `ce/head1` and `ce/head2` share a panel, as training and validation do.

    Values that are not finite are left out; of long curves every n-th point stays.
    """
    found: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        for key, value in record.items():
            if key in _NO_CURVE or not isinstance(value, int | float) or not isfinite(value):
                continue
            metric, head, number = key.partition("/head")
            if not number.isdigit():
                metric, head, number = key, "", ""
            name = f"{head[1:] + ' ' + number if head else 'all'} · {record['split']}"
            found.setdefault(metric, {}).setdefault(name, {})[record["step"]] = value
    return {
        metric: {name: _thinned(line) for name, line in [*lines.items()][:_MOST_LINES]}
        for metric, lines in found.items()
    }


def _thinned(line: Mapping[int, float]) -> dict[int, float]:
    steps = sorted(line)
    kept = {*steps[:: -(-len(steps) // _POINTS)], steps[-1]}
    return {step: line[step] for step in sorted(kept)}


def _facts(folder: Path, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    file = folder / "run.json"
    run = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    facts = {"optimizer steps": f"{max((r['step'] for r in records), default=0):,}"}
    if run.get("starts"):
        facts["started"] = ", ".join(map(str, run["starts"]))
    for key in ("git_sha", "python", "platform", "ranks"):
        if run.get(key) is not None:
            facts[key.replace("_", " ")] = str(run[key])
    return facts | {f"package {name}": str(version) for name, version in (run.get("packages") or {}).items()}
