"""A study: arms that differ in how tokens are weighted, over several seeds, evaluated on the same problems.

    uv run wmtp study --config configs/local/study.yaml
    uv run wmtp study --config configs/local/study_own.yaml    # critics on the policy's own failures
    uv run wmtp study --config configs/local/study.yaml --jobs 2
    uv run wmtp study --config configs/local/study.yaml --scheduler slurm --override slurm.partition=gpu

Stages (a pretrained policy, a reference, critics, a dataset of the policy's own programs) run once, or once per seed
(`per_seed: true`); every arm runs once per seed. In their options `${name}` is what the stage of that name made, of the
same seed: a run's folder (`source: ${policy}`), or a dataset's name (`dataset: ${own}`). What is finished is not run
again, so the same command resumes wherever it was stopped, step by step.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from weighted_mtp.extras import can_draw
from weighted_mtp.files import atomic_file
from weighted_mtp.pipelines.report_page import write_report_page
from weighted_mtp.progress import say
from weighted_mtp.report.comparison import Comparison, compare, compare_at_best
from weighted_mtp.report.comparison_page import comparison_markdown, comparison_table, finding, plot_comparisons
from weighted_mtp.report.curves import OF_CRITICS, cells, plot_curves, read_metrics
from weighted_mtp.report.links import PAGE
from weighted_mtp.report.questions import as_questions
from weighted_mtp.study.config import StudyConfig, Training, TrainingStage
from weighted_mtp.study.schedule import SchedulerName, run_steps, scheduling
from weighted_mtp.study.steps import Step, all_before, steps_of
from weighted_mtp.training.mlflow_run import finish_study
from weighted_mtp.wording import counted


@dataclass(frozen=True)
class StudyResult:
    """Folders of what a study ran, seed by seed: stage → run; arm → runs; temperature → arm → evaluations.

    seconds  arm → what each seed took, evaluations and all the stages that it starts from included
    """

    stages: dict[str, Path]
    runs: dict[str, list[Path]]
    evaluations: dict[float, dict[str, list[Path]]]
    seconds: dict[str, list[float]]


def run_study(
    config: StudyConfig, file: Path, scheduler: SchedulerName = "local", jobs: int | None = None
) -> StudyResult | None:
    """Run what is not finished yet; returns where everything lies, None if it was stopped.

    file       that holds the study, beside which its `config` files are
    scheduler  runs the steps, at most `jobs` at once; None is one on this machine, elsewhere all that can begin

    Raises `UserError` for whatever a pipeline refuses, naming the file and the stage or arm.
    """
    steps = steps_of(config, file)
    most = jobs or (1 if scheduler == "local" else len(steps))
    size = f"{counted(len(steps), 'step')} over {counted(len(config.seeds), 'seed')}, {min(most, len(steps))} at a time"
    say(f"{config.name}: {size}; those that are finished are not repeated")
    with scheduling(config, steps, scheduler, most) as submit:
        if not run_steps(steps, submit, most):
            return None
    return StudyResult(
        {step.place: step.run for step in steps if isinstance(step.what, TrainingStage)},
        {
            name: [step.run for step in steps if step.name == name]
            for name, arm in config.arms.items()
            if isinstance(arm, Training)
        },
        {
            temperature: {
                name: [step.evaluations[temperature] for step in steps if step.name == name] for name in config.arms
            }
            for temperature in config.samplings
        },
        _seconds(config, steps),
    )


def _seconds(config: StudyConfig, steps: Sequence[Step]) -> dict[str, list[float]]:
    own = {step.place: step.seconds for step in steps}
    before = all_before(steps)
    return {
        name: [own[step.place] + sum(own[place] for place in before[step.place]) for step in steps if step.name == name]
        for name in config.arms
    }


def report(config: StudyConfig, result: StudyResult) -> list[Path]:
    """Print critics, times, the comparison and what it found; write comparison, curves and page; returns the files."""
    folder = config.storage / "runs" / config.name
    console = Console()
    console.print(critic_table(result))
    console.print(time_table(result))
    files = []
    if len(config.arms) > 1:
        comparisons = compared(config, result)
        for title, comparison in comparisons.items():
            console.print(f"\n{title}", highlight=False)
            console.print(comparison_table(comparison))
        for note in next(iter(comparisons.values())).notes:
            console.print(note, highlight=False)
        for title, comparison in comparisons.items():
            console.print(f"\n{title}, {finding(comparison)}", highlight=False, markup=False)
        files += _write_comparisons(comparisons, folder)
    if not all(read_metrics(run, "validation") for runs in result.runs.values() for run in runs):
        console.print("no learning curves: an arm has no validation split")
    elif can_draw():
        files.append(plot_curves(result.runs, "ce/head1", folder / "curves.png"))
    if len(config.arms) > 1:
        files.append(write_report_page(folder, folder / PAGE))
        finish_study(result.runs.values(), files[-1])
    return files


def compared(config: StudyConfig, result: StudyResult) -> dict[str, Comparison]:
    """Title → comparison, of each temperature and k that it has samples for, and with each arm's best temperature where
    there are several."""
    against = {name: arm.against for name, arm in config.arms.items() if arm.against is not None}
    found = {}
    for k in config.k:
        pass_at = f", pass@{k}" if len(config.k) > 1 else ""
        evaluations = {t: result.evaluations[t] for t, how in config.samplings.items() if how.n_samples >= k}
        for temperature, arms in evaluations.items():
            found[f"sampled at temperature {temperature:g}{pass_at}"] = compare(arms, against=against, k=k)
        if len(evaluations) > 1:
            found[f"each arm at its best temperature{pass_at}"] = compare_at_best(evaluations, against=against, k=k)
    return found


def _write_comparisons(comparisons: Mapping[str, Comparison], folder: Path) -> list[Path]:
    page, data, figure = (folder / f"comparison.{ending}" for ending in ("md", "json", "png"))
    picture = f"![Differences to the first arm]({figure.name})\n\n" if can_draw() else ""
    with atomic_file(page) as file:
        tables = (f"## {t[0].upper()}{t[1:]}\n\n{comparison_markdown(c)}" for t, c in comparisons.items())
        parts = (f"# {folder.name}\n\n{picture}{as_questions(comparisons)}", *tables)
        file.write_text("\n".join(parts), encoding="utf-8")
    with atomic_file(data) as file:
        file.write_text(json.dumps({title: asdict(c) for title, c in comparisons.items()}, indent=2), encoding="utf-8")
    return [page, data, *([plot_comparisons(comparisons, figure)] if can_draw() else [])]


def critic_table(result: StudyResult) -> Table:
    """What each critic's last validation says of it."""
    table = Table(title="critics, on problems that training never shows", title_justify="left")
    for column in ("critic", *OF_CRITICS):
        table.add_column(column.replace("_", " "), justify="left" if column == "critic" else "right")
    for name, run in result.stages.items():
        records = [record for record in read_metrics(run, "validation") if "pair_accuracy" in record]
        if records:
            table.add_row(name, *cells(records[-1], OF_CRITICS))
    return table


def time_table(result: StudyResult) -> Table:
    """What each arm takes: seconds of a step, median over its runs; and minutes a seed with all that it starts from."""
    table = Table(title="time", title_justify="left")
    for column in (
        "arm",
        "steps",
        "seconds per step",
        "relative to the first arm",
        "minutes in all",
        "relative to the first arm",
    ):
        table.add_column(column, justify="left" if column == "arm" else "right")
    first_step = first_whole = None
    for name, seconds in result.seconds.items():
        whole = median(seconds)
        first_whole = first_whole or whole
        steps = [record for run in result.runs.get(name, ()) for record in read_metrics(run, "train")]
        of_steps = ["–"] * 3
        if steps:
            step = median(record["seconds"] for record in steps)
            first_step = first_step or step
            of_steps = [f"{steps[-1]['step']:,}", f"{step:.3g}", f"{step / first_step:.2f}"]
        table.add_row(name, *of_steps, f"{whole / 60:.1f}", f"{whole / first_whole:.2f}")
    return table
