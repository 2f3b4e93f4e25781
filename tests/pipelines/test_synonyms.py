"""Other trainers' names for options: each leads to an option that there is, and hides none of ours."""

from weighted_mtp.pipelines.config import EvaluationConfig
from weighted_mtp.pipelines.critic import CriticConfig
from weighted_mtp.pipelines.run_baseline import BaselineConfig
from weighted_mtp.pipelines.run_rho1 import Rho1RunConfig
from weighted_mtp.pipelines.run_third_party import ThirdPartyConfig
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig
from weighted_mtp.section import options_of
from weighted_mtp.synonyms import SYNONYMS

SCHEMAS = (BaselineConfig, VerifiableConfig, Rho1RunConfig, ThirdPartyConfig, CriticConfig, EvaluationConfig)


def test_every_synonym_leads_to_an_option() -> None:
    known = {option for schema in SCHEMAS for option in options_of(schema)}
    assert {option for options in SYNONYMS.values() for option in options} <= known


def test_a_synonym_is_no_option_of_its_section() -> None:
    for schema in SCHEMAS:
        known = set(options_of(schema))
        for name, options in SYNONYMS.items():
            for option in set(options) & known:
                assert f"{option.rpartition('.')[0]}.{name}".lstrip(".") not in known
