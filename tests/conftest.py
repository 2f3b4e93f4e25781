"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the models of these tests are tiny: more threads would only wait for each other


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real public data beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real public data in ../shared/data, which is not beside this checkout")
    return folder
