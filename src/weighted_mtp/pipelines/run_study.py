"""A study: arms that differ in how tokens are weighted, over several seeds, evaluated on the same problems.

    uv run wmtp study --config configs/local/study.yaml
    uv run wmtp study --config configs/local/study_own.yaml    # critics on the policy's own failures
    uv run wmtp study --config configs/local/study.yaml --jobs 2
    uv run wmtp study --config configs/local/study.yaml --scheduler slurm --override slurm.partition=gpu

Stages (a pretrained policy, a reference, critics, a dataset of the policy's own programs) run once, or once a seed
(`per_seed: true`); every arm runs once a seed. In their options `{name}` is what the stage of that name made, of the
same seed: a run's folder (`model.source={policy}`), or a dataset's name (`data.dataset={own}`). What is finished is not
run again, so the same command goes on wherever it was stopped, step by step.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from weighted_mtp.config import load_config
from weighted_mtp.files import whole_file
from weighted_mtp.pipelines.command import INTERRUPTED, AcceptChanges, ConfigFile, Debug, Overrides, one_line_errors
from weighted_mtp.pipelines.schedule import SchedulerName, run_steps, scheduling
from weighted_mtp.pipelines.study import StudyConfig, TrainingStage
from weighted_mtp.pipelines.study_steps import steps_of
from weighted_mtp.report.comparison import compare, comparison_markdown, comparison_table
from weighted_mtp.report.curves import Record, plot_curves, read_metrics


@dataclass(frozen=True)
class StudyResult:
    """Folders of what a study ran, seed by seed: stage → run; arm → runs; temperature → arm → evaluations."""

    stages: dict[str, Path]
    runs: dict[str, list[Path]]
    evaluations: dict[float, dict[str, list[Path]]]


def run_study(
    config: StudyConfig, folder: Path, scheduler: SchedulerName = "local", jobs: int | None = None
) -> StudyResult | None:
    """Run what is not finished yet; returns where everything lies, None where it was stopped.

    folder     that `config` paths of steps are relative to
    scheduler  runs the steps, at most `jobs` at once; None is one on this machine, elsewhere all that can begin

    Raises `UserError` for whatever a pipeline refuses, naming the stage or arm.
    """
    steps = steps_of(config, folder)
    most = jobs or (1 if scheduler == "local" else len(steps))
    with scheduling(config, scheduler, most) as submit:
        if not run_steps(steps, submit, most):
            return None
    return StudyResult(
        {step.place: step.run for step in steps if isinstance(step.what, TrainingStage)},
        {name: [step.run for step in steps if step.name == name] for name in config.arms},
        {
            temperature: {
                name: [step.evaluations[temperature] for step in steps if step.name == name] for name in config.arms
            }
            for temperature in config.samplings
        },
    )


def report(config: StudyConfig, result: StudyResult) -> list[Path]:
    """Print critics, times and the comparison, and write comparison and learning curves; returns the files."""
    folder = config.storage / "runs" / config.name
    console = Console()
    console.print(critic_table(result))
    console.print(time_table(result))
    files = []
    if len(config.arms) > 1:
        files.append(folder / "comparison.md")
        against = {name: arm.against for name, arm in config.arms.items() if arm.against is not None}
        tables = {temperature: compare(arms, against=against) for temperature, arms in result.evaluations.items()}
        for temperature, comparison in tables.items():
            console.print(f"\nsampled at temperature {temperature:g}", highlight=False)
            console.print(comparison_table(comparison))
            for note in comparison.notes:
                console.print(note, highlight=False)
        with whole_file(files[-1]) as file:
            parts = (f"## Sampled at temperature {t:g}\n\n{comparison_markdown(c)}" for t, c in tables.items())
            file.write_text("\n".join(parts), encoding="utf-8")
    if all(_validations(run) for runs in result.runs.values() for run in runs):
        files.append(plot_curves(result.runs, "ce/head1", folder / "curves.png"))
    else:
        console.print("no learning curves: an arm has no validation split")
    return files


def _validations(run: Path) -> list[Record]:
    return [record for record in read_metrics(run) if record["split"] == "validation"]


def critic_table(result: StudyResult) -> Table:
    """What each critic's last validation says of it."""
    table = Table(title="critics, on problems that training never shows", title_justify="left")
    names = ("pair_accuracy", "localisation_auc", "brier")
    for column in ("critic", *names):
        table.add_column(column.replace("_", " "), justify="left" if column == "critic" else "right")
    for name, run in result.stages.items():
        records = [record for record in _validations(run) if "pair_accuracy" in record]
        if records:
            table.add_row(name, *(f"{records[-1][key]:.3f}" if key in records[-1] else "–" for key in names))
    return table


def time_table(result: StudyResult) -> Table:
    """Seconds of each arm's steps, the median over its runs, and how often the first arm's that is."""
    table = Table(title="training", title_justify="left")
    for column in ("arm", "steps", "seconds a step", "to the first arm's"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    baseline = None
    for name, runs in result.runs.items():
        steps = [record for run in runs for record in read_metrics(run) if record["split"] == "train"]
        seconds = median(step["seconds"] for step in steps)
        baseline = baseline or seconds
        table.add_row(name, f"{steps[-1]['step']:,}", f"{seconds:.3g}", f"{seconds / baseline:.2f}")
    return table


def main(
    config: ConfigFile,
    override: Overrides = None,
    scheduler: Annotated[
        SchedulerName,
        typer.Option(help="Who runs the steps: this machine, or Slurm with the options in the file's `slurm:`."),
    ] = "local",
    jobs: Annotated[
        int | None,
        typer.Option(help="Steps at once. Default: one, in this process; with Slurm, all that can begin.", min=1),
    ] = None,
    accept_changes: AcceptChanges = False,
    debug: Debug = False,
) -> None:
    """Compare weightings over several seeds: everything from pretraining to the table, resumed arm by arm."""
    with one_line_errors(debug):
        study = load_config(StudyConfig, config, override or ())
        if accept_changes:
            study = study.model_copy(update={"override": (*study.override, "run.accept_changes=true")})
        result = run_study(study, config.parent, scheduler, jobs)
        if result is None:
            raise typer.Exit(INTERRUPTED)
        for file in report(study, result):
            print(file)


if __name__ == "__main__":
    typer.run(main)
