"""Fixtures of the dataset service."""

from pathlib import Path

import pytest

from tests.integration.dataset.harness import Start, starter


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a service over one store, the same for every start in a test."""
    return starter(tmp_path / "store")
