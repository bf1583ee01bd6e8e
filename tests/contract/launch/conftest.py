"""Every place that programs are launched at; `make test-cluster` takes a real one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.launch.places import PLACES, SPREADS, JobPlace, ProcessPlace, place_called, spread_called


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProcessPlace | JobPlace]:
    made = place_called(request.param, tmp_path)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(params=SPREADS)
async def spread(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProcessPlace | JobPlace]:
    """As `place`, with room for two ranks."""
    made = spread_called(request.param, tmp_path)
    try:
        yield made
    finally:
        await made.close()
