"""Prepare datasets for training and evaluation: `wmtp data`, as a script."""

import typer

from weighted_mtp.pipelines.commands.data import main

typer.run(main)
