"""Fixtures every room's tests share."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def lfw() -> Path:
    """The real-face folder beside a developer's checkout; absent in a clone elsewhere."""
    folder = Path(os.environ.get("FACETRAIN_LFW", SHARED / "data" / "lfw"))
    if not (folder / "train.rec").is_file():
        pytest.skip(f"no real faces at {folder}; set FACETRAIN_LFW to run this test")
    return folder
