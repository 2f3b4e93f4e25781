"""Every option has its effect, or is refused in one line that names it."""

import pytest

from weighted_mtp.config import load_config
from weighted_mtp.errors import UserError
from weighted_mtp.pipelines.critic import CriticConfig
from weighted_mtp.pipelines.fit import FitConfig
from weighted_mtp.pipelines.run_baseline import BaselineConfig
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig

STEPS = "training.max_steps=60"
CRITIC = ["run.name=x", "value.source=x", STEPS]
VERIFIABLE = ["run.name=x", "critic=x", STEPS]


@pytest.mark.parametrize(
    ("schema", "options", "expected"),
    [
        (BaselineConfig, ["run.name=x", "training.max_steps=50"], "optim.warmup_steps=50 must be less than"),
        (CriticConfig, ["run.name=x", "value.source=x", "training.max_steps=9"], "set optim.warmup_steps=0"),
        (
            BaselineConfig,
            ["run.name=x", "model.head_warmup_steps=2", "loss.head_coefficients=[1,0,0,0]"],
            "model.head_warmup_steps lets only heads 2 … H learn, and in loss.head_coefficients=[1.0, 0.0, 0.0, 0.0]",
        ),
        (
            BaselineConfig,
            ["run.name=x", "model={source: x, heads_only: true}", "loss.head_coefficients=[1,0,0,0]"],
            "leave heads_only out",
        ),
        (
            BaselineConfig,
            ["run.name=x", "model={source: x, heads_only: true}", "loss.detach_extra_heads=true"],
            "loss.detach_extra_heads has no effect with model.heads_only=true",
        ),
        (
            VerifiableConfig,
            [*VERIFIABLE, "model={source: x, heads_only: true}", "gate={}"],
            "gate predicts pass@1, and model.heads_only=true",
        ),
        (
            CriticConfig,
            [*CRITIC, "value.head=sigmoid", "critic.objective=pairwise_ranking", "critic.margin=1"],
            "critic.margin=1 cannot be met with value.head=sigmoid",
        ),
        (
            CriticConfig,
            [*CRITIC, "critic={objective: lambda_return, lam_start: 1, lam_steps: 60}"],
            "critic.lam_steps=60 must be less than training.max_steps=60",
        ),
        (
            VerifiableConfig,
            [*VERIFIABLE, "weighting.anneal_steps=60"],
            "weighting.anneal_steps=60 must be less than training.max_steps=60",
        ),
    ],
)
def test_what_cannot_have_its_effect_is_refused(schema: type[FitConfig], options: list[str], expected: str) -> None:
    with pytest.raises(UserError) as raised:
        load_config(schema, None, options)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_margin_that_values_can_have_is_taken() -> None:
    load_config(
        CriticConfig, None, [*CRITIC, "value.head=sigmoid", "critic={objective: pairwise_ranking, margin: 0.9}"]
    )
    load_config(CriticConfig, None, [*CRITIC, "value.head=mlp", "critic={objective: pairwise_ranking, margin: 2}"])
