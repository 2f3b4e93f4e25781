"""The training pipelines, in one table: name → the schema of a run's configuration, and the function that runs it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from weighted_mtp.errors import UserError
from weighted_mtp.pipelines.critic import CriticConfig
from weighted_mtp.pipelines.fit import FitConfig
from weighted_mtp.pipelines.run_baseline import BaselineConfig, run_baseline
from weighted_mtp.pipelines.run_critic import run_critic
from weighted_mtp.pipelines.run_ref_tuning import RefTuningConfig, run_ref_tuning
from weighted_mtp.pipelines.run_rho1 import Rho1RunConfig, run_rho1
from weighted_mtp.pipelines.run_third_party import ThirdPartyConfig, run_third_party
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig, run_verifiable


class TrainingPipeline(NamedTuple):
    """run returns the run's folder, None if it was stopped."""

    schema: type[FitConfig]
    run: Callable[[Any], Path | None]


PIPELINES = {
    "ref_tuning": TrainingPipeline(RefTuningConfig, run_ref_tuning),
    "critic": TrainingPipeline(CriticConfig, run_critic),
    "baseline": TrainingPipeline(BaselineConfig, run_baseline),
    "verifiable": TrainingPipeline(VerifiableConfig, run_verifiable),
    "rho1": TrainingPipeline(Rho1RunConfig, run_rho1),
    "third_party": TrainingPipeline(ThirdPartyConfig, run_third_party),
}


def pipeline_of(options: Mapping[str, Any], where: str) -> TrainingPipeline:
    """The pipeline that a configuration names. Raises UserError if it names none, or none of these."""
    name = options.get("pipeline")
    if name not in PIPELINES:
        given = f"pipeline={name} is unknown" if name else "does not name its pipeline"
        raise UserError(f"{where}: {given}; write `pipeline: NAME` with one of {', '.join(PIPELINES)}")
    return PIPELINES[name]
