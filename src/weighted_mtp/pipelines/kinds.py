"""The training pipelines, in one table: name → the schema of a run's configuration, and the function that runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from weighted_mtp.pipelines.critic import CriticConfig
from weighted_mtp.pipelines.fit import FitConfig
from weighted_mtp.pipelines.policy import PolicyConfig
from weighted_mtp.pipelines.run_baseline import run_baseline
from weighted_mtp.pipelines.run_critic import run_critic
from weighted_mtp.pipelines.run_ref_tuning import run_ref_tuning
from weighted_mtp.pipelines.run_rho1 import Rho1RunConfig, run_rho1
from weighted_mtp.pipelines.run_third_party import ThirdPartyConfig, run_third_party
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig, run_verifiable


class Kind(NamedTuple):
    """run returns the run's folder, None where it was stopped."""

    schema: type[FitConfig]
    run: Callable[[Any], Path | None]


KINDS = {
    "ref_tuning": Kind(PolicyConfig, run_ref_tuning),
    "critic": Kind(CriticConfig, run_critic),
    "baseline": Kind(PolicyConfig, run_baseline),
    "verifiable": Kind(VerifiableConfig, run_verifiable),
    "rho1": Kind(Rho1RunConfig, run_rho1),
    "third_party": Kind(ThirdPartyConfig, run_third_party),
}
