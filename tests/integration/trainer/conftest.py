"""A running trainer with a base and a dataset version to train on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from marsam.store.open import open_store
from tests.integration.trainer.harness import Service, place_base, place_version


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """The service, with the test program as its run program."""
    made = Service(tmp_path)
    blobs = open_store(str(made.store))
    await place_base(blobs)
    await place_version(blobs)
    async with made:
        yield made
