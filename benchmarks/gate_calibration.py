"""How well the gate predicts: every arm of a finished study, what its pilots said against what it gained.

    uv run python benchmarks/gate_calibration.py --config configs/local/study_chains.yaml --temperatures 1

For each seed it samples programs of the policy that arms start from, for validation problems, and executes them; at the
temperature of the study's stage of own programs, it takes those. Then it makes pilots of all trained arms that see what
the first, the baseline, sees. A triple is one (critic, policy, weighting), an arm of a seed, at one temperature. Prints
predicted gains, by both estimates and by the lower one, which decides, beside the measured ones; how well each estimate
tells the sign; and writes it all to `benchmarks/results/gate_calibration.md`. Done seeds are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from weighted_mtp.config import load_config
from weighted_mtp.evaluation.own_programs import Evaluation, read_evaluation
from weighted_mtp.evaluation.pass_at_k import Estimate, pass_at_k
from weighted_mtp.files import atomic_file
from weighted_mtp.pipelines.config import EvaluationConfig
from weighted_mtp.pipelines.critic import load_critics, load_reference
from weighted_mtp.pipelines.gate import PredictedGain, evaluation_of_programs, predicted_gains
from weighted_mtp.pipelines.policy import PolicyConfig, WeightingFactory, head_losses
from weighted_mtp.pipelines.run_baseline import BaselineConfig
from weighted_mtp.pipelines.run_evaluation import evaluate, holds_evaluation
from weighted_mtp.pipelines.run_rho1 import Rho1RunConfig
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig, weighted_by
from weighted_mtp.report.comparison import read_counts
from weighted_mtp.study.config import OwnPrograms, StudyConfig, TrainedArm
from weighted_mtp.study.steps import Step, steps_of
from weighted_mtp.value_weighting.controls import Uniform
from weighted_mtp.value_weighting.rho1 import Rho1Weighting

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Settings:
    """How pilots are made and judged."""

    steps: int
    problems: int
    samples: int


@dataclass(frozen=True)
class Triple:
    """An arm of a seed at one temperature: the gain over the baseline that a pilot predicts, and that of the run."""

    arm: str
    seed: int
    predicted: PredictedGain
    measured: float


TRIPLES = TypeAdapter(list[Triple])
ESTIMATES = {"first order": "first_order", "importance sampling": "reweighted", "the lower": "lower"}


def config_of(step: Step) -> PolicyConfig:
    """The options of a trained arm."""
    return cast(PolicyConfig, step._training(cast(TrainedArm, step.what)))


def is_settled_by_gate(config: PolicyConfig) -> bool:
    """Whether a run's strength is what its own gate predicted to be best, so that it is no weighting to predict."""
    return isinstance(config, VerifiableConfig) and config.weighting.strength == "auto"


def weighting_of(config: PolicyConfig) -> WeightingFactory:
    """How a run's tokens are weighted."""
    if isinstance(config, VerifiableConfig):
        return weighted_by(config, load_critics(config.critics, config.runtime), cast(float, config.weighting.strength))
    if isinstance(config, Rho1RunConfig):
        reference = load_reference(config.reference, config.runtime)
        rho1 = config.rho1
        return lambda policy, _: Rho1Weighting(rho1, head_losses(policy, config.runtime), reference.values)
    assert isinstance(config, BaselineConfig)
    return lambda _policy, _tokenizer: Uniform()


def programs_of(step: Step, source: str, temperature: float, settings: Settings) -> Evaluation:
    """Executed programs of a seed's policy for validation problems."""
    study = step.study
    for name, stage in study.stages.items():
        if isinstance(stage, OwnPrograms) and stage.temperature == temperature:
            dataset = study.storage / "datasets" / replace(step, name=name)._dataset
            return evaluation_of_programs(dataset, config_of(step).data)
    drawn = {"temperature": temperature, "n_samples": settings.samples}
    config = EvaluationConfig(
        benchmark=study.benchmark,
        checkpoint=source,
        output=study.storage / "runs" / study.name / "gate" / f"seed-{step.seed}-t{temperature:g}",
        data_root=study.storage / "datasets",
        split="validation",
        first=settings.problems,
        sampling=study.sampling.model_copy(update=drawn),
    )
    if not holds_evaluation(config):
        evaluate(config)
    return read_evaluation(config.output)


def gained(step: Step, baseline: Step, temperature: float) -> float:
    """pass@1 of an arm's evaluation, less the baseline's of the same seed."""
    rates = []
    for one in (step, baseline):
        counts = read_counts(one.evaluations[temperature])
        rates.append(np.mean([pass_at_k(n, c, 1) for n, c in counts.values()]))
    return float(rates[0] - rates[1])


def triples(baseline: Step, arms: Sequence[Step], temperature: float, settings: Settings) -> list[Triple]:
    """Of a seed's arms, kept in a file beside its baseline."""
    kept = baseline.run / f"gate-t{temperature:g}-{settings.steps}.json"
    if not kept.is_file():
        first = config_of(baseline)
        all_arms = [(step, config) for step in arms if not is_settled_by_gate(config := config_of(step))]
        alike = [(s, c) for s, c in all_arms if (c.data, c.training) == (first.data, first.training)]
        programs = programs_of(baseline, first.model.source, temperature, settings)
        gains, _ = predicted_gains([(c, weighting_of(c)) for _, c in alike], settings.steps, programs)
        found = [
            Triple(s.name, s.seed, gain, gained(s, baseline, temperature))
            for (s, _), gain in zip(alike, gains, strict=True)
        ]
        with atomic_file(kept) as file:
            file.write_bytes(TRIPLES.dump_json(found))
    return TRIPLES.validate_json(kept.read_bytes())


def area_under_curve(predicted: np.ndarray, is_gain: np.ndarray) -> float:
    """How often a triple that gained was predicted above one that did not; ½ is chance."""
    above = predicted[is_gain][:, None] - predicted[~is_gain][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean()) if above.size else float("nan")


SUMMARY = (
    "triples",
    "gained",
    "area under the curve of the sign",
    "rank correlation",
    "clear of zero",
    "of these right",
)


def rows_of(found: Sequence[Triple]) -> list[tuple[str, ...]]:
    """A row per triple, the lowest prediction first."""
    rows = []
    for t in sorted(found, key=lambda t: t.predicted.lower.value):
        gains = [getattr(t.predicted, name) for name in ESTIMATES.values()]
        shown = [f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" for gain in gains]
        rows.append((t.arm, str(t.seed), *shown, f"{t.measured:+.3f}"))
    return rows


def summaries(found: Sequence[Triple]) -> list[tuple[str, ...]]:
    """How well each estimate tells the sign of the gain."""
    measured = np.array([t.measured for t in found])
    rows = []
    for title, name in ESTIMATES.items():
        gains: list[Estimate] = [getattr(t.predicted, name) for t in found]
        values = np.array([gain.value for gain in gains])
        clear = np.array([gain.sign != 0 for gain in gains])
        right = ((values > 0) == (measured > 0))[clear].sum()
        area, rank = area_under_curve(values, measured > 0), spearmanr(values, measured).statistic
        counts = (len(found), (measured > 0).sum(), f"{area:.3f}", f"{rank:.2f}", clear.sum(), right)
        rows.append((title, *map(str, counts)))
    return rows


def written(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Print a table; returns its lines as Markdown."""
    table = Table(*header, title=title or None)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return [*([f"## {title}", ""] if title else []), *lines, ""]


def main(
    config: Annotated[Path, typer.Option(help="A study that has been run.")],
    temperatures: Annotated[list[float], typer.Option(help="Temperatures that its arms were sampled at.")],
    override: Annotated[list[str] | None, typer.Option(help="Options of the study.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of a pilot.")] = 10,
    problems: Annotated[int, typer.Option(help="Validation problems that the policy writes programs for.")] = 100,
    samples: Annotated[int, typer.Option(help="Programs for each.")] = 4,
) -> None:
    """Predicted against measured gains of a study's arms."""
    study = load_config(StudyConfig, config, override or [])
    settings = Settings(steps, problems, samples)
    arms = [s for s in steps_of(study, config) if isinstance(s.what, TrainedArm) and s.is_finished()]
    if not arms:
        raise typer.BadParameter(f"{config}: no trained arm has been run; `wmtp study --config {config}` runs them")
    lines = ["# The gate: predicted against measured gains", ""]
    for temperature in temperatures:
        found = [
            triple
            for baseline in (step for step in arms if step.name == next(iter(study.arms)))
            for triple in triples(
                baseline, [s for s in arms if s.seed == baseline.seed and s is not baseline], temperature, settings
            )
        ]
        title = f"temperature {temperature:g}"
        lines += written(title.capitalize(), ("arm", "seed", *ESTIMATES, "measured"), rows_of(found))
        lines += written("", ("estimate", *SUMMARY), summaries(found))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "gate_calibration.md").write_text("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
