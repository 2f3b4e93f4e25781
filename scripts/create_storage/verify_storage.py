"""Check what lies under storage/: `wmtp verify`, as a script."""

import typer

from weighted_mtp.pipelines.commands.verify import main

typer.run(main)
