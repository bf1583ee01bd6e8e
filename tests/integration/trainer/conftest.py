"""A running trainer with a base and a dataset version to train on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from marsam.catalog.acceptance import Acceptance
from marsam.store.open import open_store
from tests.integration.trainer.harness import CLOCK, HELD_OUT, OTHERS, PARENT, Service, place_base, place_version


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """The service, with the test program as its run program."""
    made = Service(tmp_path)
    blobs = open_store(str(made.store))
    await place_base(blobs)
    await place_version(blobs)
    async with made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """As `service`, one for a whole module whose tests leave nothing behind."""
    made = Service(tmp_path_factory.mktemp("shared"))
    blobs = open_store(str(made.store))
    await place_base(blobs)
    await place_base(blobs, "projects/default/models/judge", kind="judge")
    await place_base(blobs, "projects/default/models/rail", licence="openrail++")
    await place_base(blobs, "projects/default/models/plain", licence="")
    scheduler = b'{"_class_name": "LCMScheduler", "prediction_type": "epsilon"}'
    await place_base(blobs, f"{PARENT}/models/fast", changed={"scheduler/scheduler_config.json": scheduler})
    for who in ("local", "mona"):
        accepted = Acceptance(licence="openrail++", by=who, at=CLOCK.now())
        await place_base(blobs, f"projects/default/models/of-{who}", licence="openrail++", accepted=accepted)
    await place_version(blobs)
    await place_version(blobs, OTHERS, items=2)
    await place_version(blobs, HELD_OUT, items=4, held_out=2)
    await place_base(blobs, f"{PARENT}/models/had-best")
    await place_version(blobs, f"{OTHERS}-again", items=3)
    await place_version(blobs, f"{OTHERS}-none", items=0)
    async with made:
        yield made
