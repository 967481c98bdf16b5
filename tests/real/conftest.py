"""Fixtures of the tests over real data."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data that ``CTKIT_REAL_DATA`` names; skip the test where it does not."""
    folder = os.environ.get("CTKIT_REAL_DATA")
    if not folder:
        pytest.skip("CTKIT_REAL_DATA names no folder of real data")
    return Path(folder).resolve()
