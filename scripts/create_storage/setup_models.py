"""Fetch, convert and check models: `wmtp models setup`, as a script."""

import typer

from weighted_mtp.pipelines.setup_models import main

typer.run(main)
