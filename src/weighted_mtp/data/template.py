"""The ways to ask for a program, by name."""

from typing import Literal, get_args

Template = Literal["alpaca", "plain", "chat"]
"""alpaca: under instructions in English; plain: a raw prompt to continue; chat: the model's own chat template."""
TEMPLATES: tuple[Template, ...] = get_args(Template)
