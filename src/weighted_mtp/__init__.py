"""Multi-token prediction in which the tokens that decide whether a program works count more."""

import os

# OpenMP threads that wait for work spin, some milliseconds by default. Beside any other busy process that makes a
# training step twenty times slower; with this it costs what sharing costs (docs/LOG.md). Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
