"""What the tests share as fixtures."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout that may not be shipped with it."""
    path = Path(os.environ.get("FOCALPO_SHARED_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"published annotations may not be shipped (CC-BY-NC) and are not at {path}")
    return path
