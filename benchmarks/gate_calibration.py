"""How well the gate predicts: every arm of a finished study, what its pilots said against what it gained.

    uv run python benchmarks/gate_calibration.py --config configs/local/study_chains.yaml --temperatures 1

For each seed it samples programs of the policy that arms start from, for validation problems, and executes them. Then
it makes pilots of all trained arms that see what the first, the baseline, sees. A triple is one (critic, policy,
weighting), an arm of a seed, at one temperature. Prints predicted and measured gains, the area under the curve of the
sign, and the rank correlation; writes them to `benchmarks/results/gate_calibration.md`. Done seeds are kept.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from weighted_mtp.config import load_config
from weighted_mtp.evaluation.own_programs import Evaluation, read_evaluation
from weighted_mtp.evaluation.pass_at_k import pass_at_k
from weighted_mtp.files import atomic_file
from weighted_mtp.pipelines.config import EvaluationConfig
from weighted_mtp.pipelines.critic import load_critics, load_reference
from weighted_mtp.pipelines.gate import predicted_gains
from weighted_mtp.pipelines.policy import PolicyConfig, WeightingFactory, head_losses
from weighted_mtp.pipelines.run_baseline import BaselineConfig
from weighted_mtp.pipelines.run_evaluation import evaluate, holds_evaluation
from weighted_mtp.pipelines.run_rho1 import Rho1RunConfig
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig, weighted_by
from weighted_mtp.report.comparison import read_counts
from weighted_mtp.study.config import StudyConfig, TrainedArm
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
    temperature: float
    predicted: float
    low: float
    high: float
    measured: float


def config_of(step: Step) -> PolicyConfig:
    """The options of a trained arm."""
    return cast(PolicyConfig, step._training(cast(TrainedArm, step.what)))


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
        all_arms = [(step, config_of(step)) for step in arms]
        alike = [(s, c) for s, c in all_arms if (c.data, c.training) == (first.data, first.training)]
        programs = programs_of(baseline, first.model.source, temperature, settings)
        gains, _ = predicted_gains([(c, weighting_of(c)) for _, c in alike], settings.steps, programs)
        found = [
            Triple(s.name, s.seed, temperature, gain.value, gain.low, gain.high, gained(s, baseline, temperature))
            for (s, _), gain in zip(alike, gains, strict=True)
        ]
        with atomic_file(kept) as file:
            file.write_text(json.dumps([asdict(triple) for triple in found]))
    return [Triple(**facts) for facts in json.loads(kept.read_text())]


def area_under_curve(predicted: np.ndarray, is_gain: np.ndarray) -> float:
    """How often a triple that gained was predicted above one that did not; ½ is chance."""
    above = predicted[is_gain][:, None] - predicted[~is_gain][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean()) if above.size else float("nan")


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
    lines = ["# The gate: predicted against measured gains", ""]
    for temperature in temperatures:
        found = [
            triple
            for baseline in (step for step in arms if step.name == next(iter(study.arms)))
            for triple in triples(
                baseline, [s for s in arms if s.seed == baseline.seed and s is not baseline], temperature, settings
            )
        ]
        predicted, measured = (np.array([getattr(t, name) for t in found]) for name in ("predicted", "measured"))
        table = Table("arm", "seed", "predicted", "measured", title=f"temperature {temperature:g}")
        lines += [f"## Temperature {temperature:g}", "", "| arm | seed | predicted | measured |", "|---|---|---|---|"]
        for t in sorted(found, key=lambda t: t.predicted):
            row = (t.arm, str(t.seed), f"{t.predicted:+.3f} [{t.low:+.3f}, {t.high:+.3f}]", f"{t.measured:+.3f}")
            table.add_row(*row)
            lines.append("| " + " | ".join(row) + " |")
        right = float(((predicted > 0) == (measured > 0)).mean())
        summary = (
            f"{len(found)} triples, {int((measured > 0).sum())} gained: area under the curve of the sign "
            f"{area_under_curve(predicted, measured > 0):.3f}, sign right in {right:.0%}, rank correlation "
            f"{spearmanr(predicted, measured).statistic:.2f}"
        )
        lines += ["", summary, ""]
        Console().print(table, summary)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "gate_calibration.md").write_text("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
