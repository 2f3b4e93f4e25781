"""The learning rate of every step, and what a frozen group is given."""

import pytest
import torch
from torch import nn

from weighted_mtp.training.optim import Group, OptimConfig, build_optimizer, prepare_groups, schedule


@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 2), (10, 0), (10, 5), (20, 5), (20, 19), (100, 2)]
)
@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
def test_the_rate_rises_to_its_peak_and_falls_to_the_last_steps_ratio(warmup: int, steps: int, ratio: float) -> None:
    config = OptimConfig(warmup_steps=warmup, final_lr_ratio=ratio)
    rates = [schedule(step, steps, config) for step in range(steps)]
    assert rates[-1] == pytest.approx(ratio, abs=1e-12)
    assert rates[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert max(rates) == pytest.approx(1.0 if warmup or steps > 1 else ratio)


def test_the_rates_that_are_logged_are_those_that_parameters_learn_at() -> None:
    trunk, heads = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [Group("trunk", trunk.parameters(), 1.0, frozen_steps=1), Group("value head", heads.parameters(), 0.5)]
    optimizer = build_optimizer(groups, OptimConfig())
    for p in (*trunk.parameters(), *heads.parameters()):
        p.grad = torch.ones_like(p)
    assert prepare_groups(optimizer, 0, 0.5) == {"lr": 0.0, "lr/trunk": 0.0, "lr/value_head": 0.25}
    assert not any(p.grad.any() for p in trunk.parameters() if p.grad is not None)
    assert prepare_groups(optimizer, 1, 0.5) == {"lr": 0.5, "lr/trunk": 0.5, "lr/value_head": 0.25}
    alone = build_optimizer([Group("trunk", trunk.parameters(), 1.0)], OptimConfig())
    assert prepare_groups(alone, 0, 0.5) == {"lr": 0.5}
