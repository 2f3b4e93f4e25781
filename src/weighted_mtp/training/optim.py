"""AdamW over parameter groups, and its learning-rate schedule."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from weighted_mtp.runtime.sharding import whole_tensor
from weighted_mtp.section import Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Section):
    """AdamW (Loshchilov & Hutter 2019) with linear warm-up and cosine decay."""

    lr: float = Field(3e-4, gt=0)
    """Learning rate after the warm-up, the highest of the run."""
    weight_decay: float = Field(0.1, ge=0)
    """Decay of matrices; norms and biases do not decay."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of AdamW's running means of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator of AdamW's update."""
    warmup_steps: int = Field(50, ge=0)
    """Steps of linear warm-up; fewer than `training.max_steps`."""
    final_lr_ratio: float = Field(0.1, ge=0, le=1)
    """Learning rate at the last step, as a share of `lr`."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Clip the gradient to this norm, that of trunk and heads (or backbone and value head) separately: the heads',
    which is large while they are new, would take the trunk's updates away."""


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and may stay frozen for the first steps."""

    name: str
    parameters: Iterable[nn.Parameter]
    lr: float
    frozen_steps: int = 0


def build_optimizer(groups: Iterable[Group], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `groups`, matrices with weight decay and the rest without."""
    built = []
    for group in groups:
        trainable = [p for p in group.parameters if p.requires_grad]
        for decay in (True, False):
            chosen = [p for p in trainable if (p.dim() >= 2) == decay]
            if chosen:
                built.append(
                    {
                        "name": group.name,
                        "params": chosen,
                        "lr": group.lr,
                        "peak_lr": group.lr,
                        "frozen_steps": group.frozen_steps,
                        "weight_decay": config.weight_decay if decay else 0.0,
                    }
                )
    return torch.optim.AdamW(built, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def schedule(step: int, max_steps: int, config: OptimConfig) -> float:
    """The learning rate of 0-based `step` as a share of its peak: linear warm-up, then cosine to `final_lr_ratio`.

    That is the last step's, even if it is the only one after the warm-up.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    decay = max_steps - 1 - config.warmup_steps
    progress = (step - config.warmup_steps) / decay if decay else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine


def prepare_groups(optimizer: torch.optim.Optimizer, step: int, factor: float) -> dict[str, float]:
    """Set each group's learning rate for `step`; a group that is still frozen has rate and gradients 0.

    Returns the rates: `lr` is the first group's, `lr/NAME` each one's if there are several.
    """
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        frozen = step < group["frozen_steps"]
        group["lr"] = 0.0 if frozen else group["peak_lr"] * factor
        if frozen:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.zero_()
        rates[f"lr/{_key(group['name'])}"] = group["lr"]
    return {"lr": next(iter(rates.values())), **(rates if len(rates) > 1 else {})}


def _key(name: str) -> str:
    """A group's name in `metrics.jsonl`."""
    return name.replace(" ", "_")


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> dict[str, float]:
    """Scale each named group's gradients down to `max_norm`; returns the norms that they had, of all and of each.

    Keys are `grad_norm` and, of several groups, `grad_norm/NAME`. One wait for the device.
    """
    names = list(dict.fromkeys(group["name"] for group in optimizer.param_groups))
    norms = []
    for name in names:
        members = [p for group in optimizer.param_groups if group["name"] == name for p in group["params"]]
        norms.append(whole_tensor(nn.utils.clip_grad_norm_(members, max_norm)))
    each = torch.stack(norms).tolist()
    several = {f"grad_norm/{_key(name)}": norm for name, norm in zip(names, each, strict=True)}
    return {"grad_norm": math.hypot(*each), **(several if len(names) > 1 else {})}
