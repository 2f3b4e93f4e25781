"""The page of a study: what was found, comparisons with a dot per seed, learning curves, critics and times."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError

from weighted_mtp.errors import UserError, first_line
from weighted_mtp.report.comparison import Comparison
from weighted_mtp.report.comparison_page import finding, seed_differences, tables
from weighted_mtp.report.curves import OF_CRITICS, Split, cells, mean_line, read_metrics
from weighted_mtp.report.figures import MOST_LINES, Interval, curves, intervals
from weighted_mtp.report.links import Link, Links
from weighted_mtp.report.page import write_html
from weighted_mtp.training.run_directory import Record

_CURVE = "ce/head1"
_OF_EVERY_RUN = ("run.name", "run.root", "run.seed")  # options in which runs differ by what they are


def write_study_page(folder: Path, options: Mapping[Path, Mapping[str, Any]], links: Links) -> Path:
    """Write the page of a study that has compared its arms; returns the file.

    Everything is read from the study's folder: `comparison.json`, and of every run metrics and times.

    options  run → those of its options that differ from their defaults

    Raises UserError if the comparison cannot be read.
    """
    comparisons = read_comparisons(folder)
    runs = _runs(folder)
    arms = [arm.name for arm in next(iter(comparisons.values())).arms]
    values = {
        "title": folder.name,
        "kind": "study",
        "comparisons": [_comparison(title, comparison) for title, comparison in comparisons.items()],
        "curve": _curve({name: runs[name] for name in arms if name in runs}),
        "curve_of": _CURVE,
        "critics": [*_critics(runs)],
        "critics_header": [name.replace("_", " ") for name in OF_CRITICS],
        "times": [*_times(runs)],
        "pages": [*_pages(runs, links)],
        "options_of_arms": _options({name: options.get(runs[name][0], {}) for name in arms if name in runs}),
    }
    return write_html(links.page, "study.html", values)


def _pages(runs: Mapping[str, Sequence[Path]], links: Links) -> Iterator[tuple[str, list[Link]]]:
    """Stage or arm → links to the pages of its runs and of what they were evaluated to."""
    for name, several in runs.items():
        places = []
        for run in several:
            seed = run.name.removeprefix(f"{name}-seed-")
            which = "run" if seed == run.name else f"seed {seed}"
            inside = sorted(path for path in run.iterdir() if path.is_dir())
            places += [(which, run), *((f"{which}, {path.name}", path) for path in inside)]
        if found := links.among(places):
            yield name, found


def _options(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Options that differ from their defaults: those that all arms share, and a row for each in which they differ."""
    names = [name for name in dict.fromkeys(key for own in arms.values() for key in own) if name not in _OF_EVERY_RUN]
    cells = {name: [str(own[name]) if name in own else "default" for own in arms.values()] for name in names}
    return {
        "arms": [*arms],
        "shared": {name: values[0] for name, values in cells.items() if len(set(values)) == 1},
        "rows": [(name, values) for name, values in cells.items() if len(set(values)) > 1],
    }


def read_comparisons(folder: Path) -> dict[str, Comparison]:
    """Title → comparison, of a study's `comparison.json`. Raises UserError if it cannot be read."""
    file = folder / "comparison.json"
    try:
        found = TypeAdapter(dict[str, Comparison]).validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); the same `wmtp study` writes it") from error
    if not found:
        raise UserError(f"{file}: holds no comparison; the same `wmtp study` writes it")
    return found


def _comparison(title: str, comparison: Comparison) -> dict[str, Any]:
    baseline, *others = comparison.arms
    values = [Interval(arm.name, arm.value, arm.by_seed if arm.seeds > 1 else ()) for arm in comparison.arms]
    differences = [
        Interval(arm.name, arm.difference, seed_differences(arm, baseline)) for arm in others if arm.difference
    ]
    return {
        "title": title[0].upper() + title[1:],
        "finding": finding(comparison),
        "values": intervals(values),
        "differences": intervals(differences),
        "difference_of": f"pass@{comparison.k} above {baseline.name}",
        "value_of": f"pass@{comparison.k}",
        "tables": [*tables(comparison)],
        "notes": comparison.notes,
        "interval": f"{100 * comparison.confidence:g} %",
    }


def _runs(folder: Path) -> dict[str, list[Path]]:
    """Stage or arm → its folders, one per seed."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if (path / "step.json").is_file() or (path / "metrics.jsonl").is_file():
            found.setdefault(re.sub(r"-seed-\d+$", "", path.name), []).append(path)
    return found


def _records(run: Path, split: Split) -> list[Record]:
    return read_metrics(run, split) if (run / "metrics.jsonl").is_file() else []


def _curve(arms: Mapping[str, Sequence[Path]]) -> Markup | None:
    """Validation loss of each arm, mean over seeds; None if nothing was validated, or colours would not suffice."""
    lines = {}
    for name, runs in arms.items():
        own = [{r["step"]: r[_CURVE] for r in _records(run, "validation") if _CURVE in r} for run in runs]
        if line := mean_line(own):
            lines[name] = line
    if not lines or len(lines) > MOST_LINES:
        return None
    return curves(lines, dashed=frozenset([*lines][MOST_LINES // 2 :]))


def _critics(runs: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, list[str]]]:
    """What each critic's last validation says of it."""
    for run in (run for several in runs.values() for run in several):
        records = [record for record in _records(run, "validation") if "pair_accuracy" in record]
        if records:
            yield run.name, cells(records[-1], OF_CRITICS)


def _times(runs: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, int, str, str]]:
    """(stage or arm, runs, seconds per optimizer step, minutes of a run), both the median over its runs."""
    for name, several in runs.items():
        steps = [record["seconds"] for run in several for record in _records(run, "train") if "seconds" in record]
        files = [run / "step.json" for run in several if (run / "step.json").is_file()]
        whole = [json.loads(file.read_text())["seconds"] for file in files]
        yield (
            name,
            len(several),
            f"{median(steps):.3g}" if steps else "–",
            f"{median(whole) / 60:.1f}" if whole else "–",
        )
