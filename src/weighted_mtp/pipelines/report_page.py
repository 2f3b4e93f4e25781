"""`wmtp report`: which kind of folder it is, and its page, with links to the pages of what belongs to it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from weighted_mtp.data.tables import read_statements
from weighted_mtp.errors import UserError
from weighted_mtp.models.checkpoint import run_of
from weighted_mtp.pipelines.config import EvaluationConfig, WeightsConfig
from weighted_mtp.pipelines.doubts import doubts
from weighted_mtp.pipelines.fit import differing, run_options
from weighted_mtp.pipelines.kinds import pipeline_of
from weighted_mtp.pipelines.token_weights import shown_programs
from weighted_mtp.pipelines.weight_source import critic_source, run_source, split_of
from weighted_mtp.progress import say
from weighted_mtp.report.evaluation_page import read_report, write_evaluation_page
from weighted_mtp.report.links import PAGE, Links
from weighted_mtp.report.run_page import write_run_page
from weighted_mtp.report.study_page import write_study_page
from weighted_mtp.report.token_page import ShownPrograms
from weighted_mtp.section import changed
from weighted_mtp.wording import near_paths

WITH_PROGRAMS = ("critic", "verifiable", "rho1")
"""Pipelines whose runs give tokens weights."""
MADE_FROM = {"checkpoint", "critic", "model.source", "reference", "value.source"}
"""Options that name a run, or a model of one."""


def write_report_page(folder: Path, output: Path, problems: int = 0, linked: bool = False) -> Path:
    """Write the page of an evaluation, a study or a run; returns the file.

    problems  of a run that gives tokens weights, how many problems' programs are shown token by token
    linked    also write the pages of a study's runs and of evaluations in its or a run's folder

    Raises UserError for a folder that is none of these, and for an evaluation or a study that is not finished.
    """
    inside = [*_inside(folder)] if linked else []
    links = Links(output, frozenset((part / PAGE).resolve() for part in inside))
    for part in inside:
        if part != folder:
            _write(part, Links(part / PAGE, links.planned | {output.resolve()}), problems)
    return _write(folder, links, problems)


def _write(folder: Path, links: Links, problems: int) -> Path:
    match _kind(folder):
        case "evaluation":
            report = read_report(folder)
            options = changed(EvaluationConfig, report["config"])
            beside = links.among(_around(folder, options))
            return write_evaluation_page(folder, report, options, links.page, beside, _statements(report["config"]))
        case "study":
            parts = [part for part in _inside(folder) if part != folder]
            options_of = {part: _differing(part) for part in parts if _kind(part) == "run"}
            return write_study_page(folder, options_of, links)
        case _:
            options = _differing(folder)
            shown, notes = _programs(folder, options, problems)
            beside = links.among(_around(folder, options))
            return write_run_page(folder, options, links.page, shown, notes, beside)


def _kind(folder: Path) -> str:
    if (folder / "evaluation.json").is_file() or (folder / "results.jsonl").is_file():
        return "evaluation"
    if (folder / "comparison.json").is_file():
        return "study"
    if (folder / "metrics.jsonl").is_file():
        return "run"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder{near_paths(folder)}")
    inside = ", ".join(str(part) for part in _inside(folder, 1))
    raise UserError(
        f"{folder}: not an evaluation (`wmtp evaluate --output`), a finished study or a training run: "
        f"{f'give one of {inside}' if inside else 'give the folder of one'}"
    )


def _inside(folder: Path, depth: int = 2) -> Iterator[Path]:
    """The finished evaluations and the runs in a folder, itself among them: a study holds runs, which hold
    evaluations."""
    is_evaluation = (folder / "results.jsonl").is_file() and (folder / "report.json").is_file()
    if is_evaluation or (folder / "metrics.jsonl").is_file():
        yield folder
    if depth:
        for path in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _inside(path, depth - 1)


def _differing(run: Path) -> dict[str, Any]:
    """The options of a run that differ from the defaults."""
    options = run_options(run)
    return differing(pipeline_of(options, str(run / "config.yaml")).schema, options)


def _around(folder: Path, options: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """What a run or an evaluation belongs to, what is in it, and the runs that its options name."""
    for above in (folder.parent, folder.parent.parent):
        if (above / "comparison.json").is_file():
            yield f"study {above.name}", above
    for part in _inside(folder, 1):
        if part != folder:
            yield f"evaluation {part.name}", part
    for name in sorted(MADE_FROM & options.keys()):
        for source in options[name] if isinstance(options[name], list) else [options[name]]:
            if isinstance(source, str) and (run := run_of(Path(source))) is not None:
                yield f"{name}: {run.name}", run


def _statements(config: Mapping[str, Any]) -> dict[str, str]:
    """Problem → what it asks, of the split that was evaluated; {} if that is not there any more."""
    if not {"data_root", "split"} <= config.keys():
        return {}
    split = Path(config["data_root"]) / config["benchmark"] / config["split"]
    try:
        return {problem.problem_id: problem.description for problem in read_statements(split)}
    except UserError:
        return {}


def _programs(run: Path, options: Mapping[str, Any], problems: int) -> tuple[ShownPrograms | None, list[str]]:
    """A run's programs token by token, and what there is to say of the run."""
    is_critic = options["pipeline"] == "critic"
    notes = [doubt.removeprefix(f"critic {run}: ") for doubt in doubts(run)] if is_critic else []
    if not problems or options["pipeline"] not in WITH_PROGRAMS:
        return None, notes
    try:
        source = critic_source(run) if is_critic else run_source(run)
        return shown_programs(source, split_of(WeightsConfig(run=run)), problems), notes
    except UserError as error:
        say(f"no programs are shown: {error}")
        return None, [*notes, f"No programs are shown: {error}"]
