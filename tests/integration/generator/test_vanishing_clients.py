"""A minute of clients three in ten of whom vanish, detached ones among them: no slot and no place stays taken, nothing
is left of any of them, and a picture is the same after as before. An hour of it: tests/soak."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from marsam.store import keys
from marsam.store.blobs import walk
from tests.integration.generator.support import generate, request, serving
from tests.soak.crowd import VANISHED, Crowd, pictures_to_start_from

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECONDS = 60.0
PLACES = 16


async def test_clients_that_vanish_leave_nothing_behind(store: str, cache: Path) -> None:
    async with serving(store, cache, queue_pictures=PLACES) as served:
        probes = [request(steps=20), request(steps=20, adapters={"a": 0.7})]
        before = [(await generate(served.stub, probe)).images[0][1] for probe in probes]
        images = await pictures_to_start_from(served.stub)
        began = time.monotonic()
        crowd = Crowd(served.target, random.Random(7), over=lambda: time.monotonic() - began > SECONDS, images=images)
        await crowd.work()
        async with asyncio.timeout(60):
            while (
                served.meter.value("marsam_queue_depth", queue="pictures")
                or served.meter.value("marsam_queue_work_seconds", queue="pictures")
                or [key async for key in walk(served.blobs, keys.drawings("default"))]
            ):
                await asyncio.sleep(0.1)
        assert all(crowd.told[way] > 0 for way in ("done", "detached", *VANISHED)), crowd.told
        # Every place that may be had is free, and every probe draws what it drew.
        assert len((await generate(served.stub, request(count=PLACES))).images) == PLACES
        assert [(await generate(served.stub, probe)).images[0][1] for probe in probes] == before
