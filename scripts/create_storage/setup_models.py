"""Fetch, convert and check models: `wmtp models setup`, as a script."""

import typer

from weighted_mtp.pipelines.commands.models import setup

typer.run(setup)
