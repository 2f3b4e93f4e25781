"""Check what lies under storage/: `wmtp verify`, as a script."""

import typer

from weighted_mtp.pipelines.verify_storage import main

typer.run(main)
