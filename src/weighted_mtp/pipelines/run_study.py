"""A study: arms that differ in how tokens are weighted, over several seeds, evaluated on the same problems.

    uv run wmtp study --config configs/local/study.yaml

Stages (a pretrained policy, a reference, critics) run once; every arm runs once a seed. What is finished is not run
again, so the same command goes on wherever it was stopped, arm by arm.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from weighted_mtp.config import Section, load_config
from weighted_mtp.decoding.sample import SamplingConfig
from weighted_mtp.errors import UserError
from weighted_mtp.files import whole_file
from weighted_mtp.pipelines.command import INTERRUPTED, ConfigFile, Debug, Overrides, one_line_errors
from weighted_mtp.pipelines.critic import CriticConfig
from weighted_mtp.pipelines.fit import FitConfig
from weighted_mtp.pipelines.policy import PolicyConfig
from weighted_mtp.pipelines.run_baseline import run_baseline
from weighted_mtp.pipelines.run_critic import run_critic
from weighted_mtp.pipelines.run_evaluation import EvaluationConfig, evaluate, holds_evaluation
from weighted_mtp.pipelines.run_ref_tuning import run_ref_tuning
from weighted_mtp.pipelines.run_rho1 import Rho1RunConfig, run_rho1
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig, run_verifiable
from weighted_mtp.report.comparison import compare, comparison_markdown, comparison_table
from weighted_mtp.report.curves import plot_curves, read_metrics

Pipeline = Literal["ref_tuning", "critic", "baseline", "verifiable", "rho1"]

PIPELINES: dict[Pipeline, tuple[type[FitConfig], Callable[[Any], Path | None]]] = {
    "ref_tuning": (PolicyConfig, run_ref_tuning),
    "critic": (CriticConfig, run_critic),
    "baseline": (PolicyConfig, run_baseline),
    "verifiable": (VerifiableConfig, run_verifiable),
    "rho1": (Rho1RunConfig, run_rho1),
}


class Step(Section):
    """One training run of a study."""

    pipeline: Pipeline
    config: Path
    """Its YAML file, relative to the study's."""
    override: tuple[str, ...] = ()
    """Options a.b=value; in a value, `{name}` is the folder of the stage of that name, `{datasets}` the data's."""


class StudyConfig(Section):
    """What is compared."""

    name: str
    storage: Path = Path("storage")
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Every arm runs once a seed; stages run with the first."""
    override: tuple[str, ...] = ()
    """Options of all stages and arms, after their own."""
    stages: dict[str, Step] = {}  # noqa: RUF012  # pydantic copies it
    """What the arms start from, in this order; `{name}` in an override is an earlier stage's folder."""
    arms: dict[str, Step]
    """What is compared; the first is the baseline of every difference."""
    benchmark: str = "micro"
    split: str = "test"
    first: int | None = Field(None, ge=1)
    """Only the first N problems."""
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> "StudyConfig":
        if both := sorted(self.stages.keys() & self.arms.keys()):
            raise ValueError(f"{both[0]} is the name of a stage and of an arm: rename one")
        if not self.arms:
            raise ValueError("arms: give at least one")
        return self


@dataclass(frozen=True)
class StudyResult:
    """Folders of what a study ran: stage → run; arm → runs and evaluations, seed by seed."""

    stages: dict[str, Path]
    runs: dict[str, list[Path]]
    evaluations: dict[str, list[Path]]


def run_study(config: StudyConfig, folder: Path) -> StudyResult | None:
    """Run what is not finished yet; returns where everything lies, None where it was stopped.

    folder  that `config` paths of steps are relative to

    Raises `UserError` for whatever a pipeline refuses, naming the stage or arm.
    """
    stages: dict[str, Path] = {}
    for name, step in config.stages.items():
        run = _run(config, folder, name, step, config.seeds[0], stages)
        if run is None:
            return None
        stages[name] = run
    result = StudyResult(stages, {name: [] for name in config.arms}, {name: [] for name in config.arms})
    for seed in config.seeds:  # seed by seed: stopped early, there is a comparison already
        for name, step in config.arms.items():
            run = _run(config, folder, f"{name}-seed-{seed}", step, seed, stages)
            if run is None:
                return None
            result.runs[name].append(run)
            result.evaluations[name].append(_evaluate(config, run))
    return result


def _run(study: StudyConfig, folder: Path, name: str, step: Step, seed: int, stages: Mapping[str, Path]) -> Path | None:
    schema, pipeline = PIPELINES[step.pipeline]
    fixed = [
        f"run.name={study.name}/{name}",
        f"run.root={study.storage / 'runs'}",
        f"run.seed={seed}",
        f"data.root={study.storage / 'datasets'}",
        f"mlflow.tracking_uri=sqlite:///{study.storage / 'mlflow.db'}",
    ]
    try:
        places = {**stages, "datasets": study.storage / "datasets"}
        own = [option.format(**places) for option in (*step.override, *study.override)]
        return pipeline(load_config(schema, folder / step.config, [*fixed, *own]))
    except KeyError as error:
        raise UserError(f"{name}: override {{{error.args[0]}}} is no stage before it; stages: {[*stages]}") from error
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _evaluate(study: StudyConfig, run: Path) -> Path:
    output = run / f"evaluation-{study.benchmark}"
    config = EvaluationConfig(
        benchmark=study.benchmark,
        checkpoint=str(run),
        output=output,
        data_root=study.storage / "datasets",
        split=study.split,
        first=study.first,
        sampling=study.sampling,
    )
    if not holds_evaluation(config):
        evaluate(config)
    return output


def report(config: StudyConfig, result: StudyResult) -> list[Path]:
    """Print critics and the comparison, and write comparison and learning curves; returns the files."""
    folder = config.storage / "runs" / config.name
    console = Console()
    console.print(critic_table(result))
    files = []
    if len(result.evaluations) > 1:
        comparison = compare(result.evaluations)
        console.print(comparison_table(comparison))
        for note in comparison.notes:
            console.print(note, highlight=False)
        files.append(folder / "comparison.md")
        with whole_file(files[-1]) as file:
            file.write_text(comparison_markdown(comparison), encoding="utf-8")
    files.append(plot_curves(result.runs, "ce/head1", folder / "curves.png"))
    return files


def critic_table(result: StudyResult) -> Table:
    """What each critic's last validation says of it."""
    table = Table(title="critics, on problems that training never shows", title_justify="left")
    names = ("pair_accuracy", "localisation_auc", "brier")
    for column in ("critic", *names):
        table.add_column(column.replace("_", " "), justify="left" if column == "critic" else "right")
    for name, run in result.stages.items():
        records = [r for r in read_metrics(run) if r["split"] == "validation" and "pair_accuracy" in r]
        if records:
            table.add_row(name, *(f"{records[-1][key]:.3f}" if key in records[-1] else "–" for key in names))
    return table


def main(config: ConfigFile, override: Overrides = None, debug: Debug = False) -> None:
    """Compare weightings over several seeds: everything from pretraining to the table, resumed arm by arm."""
    with one_line_errors(debug):
        study = load_config(StudyConfig, config, override or ())
        result = run_study(study, config.parent)
        if result is None:
            raise typer.Exit(INTERRUPTED)
        for file in report(study, result):
            print(file)


if __name__ == "__main__":
    typer.run(main)
