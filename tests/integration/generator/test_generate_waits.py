"""While a base loads, or text waits to be encoded: callers leave at once, what was begun serves the next."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from marsam_generator.bases import Bases
from marsam_generator.engine.admission import Admission
from marsam_generator.engines.local import LocalEngine
from marsam_generator.finishing import Finishing
from marsam_generator.hardware import choose
from marsam_generator.images import LIMITS, Images
from marsam_generator.models import Library
from marsam_generator.studio import Studio
from marsam_generator.trees import Trees

from marsam.core.clock import SystemClock
from marsam.core.errors import Cancelled, Deadline, Unavailable
from marsam.imaging.pool import DecodePool
from marsam.store.cache import Cache
from marsam.store.folder import FolderBlobs
from marsam.telemetry import Meter
from tests.integration.generator.support import model, request


class SlowBlobs(FolderBlobs):
    """A folder from which large objects come only while `open` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.open = asyncio.Event()
        self.asked = asyncio.Event()
        self.fetched: list[str] = []

    async def fetch(self, key: str, into: Path, *, sha256: str, size: int) -> Path:
        self.fetched.append(key)
        if size > 100_000:
            self.asked.set()
            await self.open.wait()
        return await super().fetch(key, into, sha256=sha256, size=size)


class House:
    """A studio of its own, with an empty cache, over the tiny models."""

    def __init__(self, store: str, cache: Path, *, budget: int = 1 << 30) -> None:
        self.blobs = SlowBlobs(Path(store))
        self.admission = Admission(seconds=600, pictures=64)
        meter = Meter(service="generator", version="0")
        trees = Trees(self.blobs, Cache(cache))
        self.library = Library(
            blobs=self.blobs,
            trees=trees,
            hardware=choose("cpu", "fp32", 1),
            tick_rows=4,
            budget=budget,
            admission=self.admission,
            meter=meter,
        )
        self.studio = Studio(
            blobs=self.blobs,
            engine=LocalEngine(library=self.library, admission=self.admission, meter=meter),
            bases=Bases(trees),
            images=Images(self.blobs, DecodePool(size=1, limits=LIMITS)),
            finishing=Finishing(),
            meter=meter,
            clock=SystemClock(),
            max_steps=50,
        )

    async def drawn(self, *, deadline: float | None = None, **fields: object) -> int:
        """Draw to the end; gives the number of pictures."""
        async with contextlib.aclosing(self.studio.draw(request(**fields), deadline=deadline)) as messages:
            return sum([1 async for message in messages if message.HasField("image")])


@pytest.fixture
async def house(store: str, tmp_path: Path) -> AsyncIterator[House]:
    async with asyncio.timeout(60):
        made = House(store, tmp_path / "cache")
        yield made
        made.blobs.open.set()
        await made.library.close()


def weights(house: House) -> list[str]:
    """Every object that was asked for; each once, when nothing was loaded twice."""
    return sorted(house.blobs.fetched)


async def test_a_deadline_is_answered_while_the_base_loads_and_the_load_goes_on(house: House) -> None:
    with pytest.raises(Deadline):
        await house.drawn(deadline=time.monotonic() + 2.0)
    assert house.blobs.asked.is_set()
    assert house.admission.pictures == 0
    assert house.library.residents() == []
    house.blobs.open.set()
    assert await house.drawn() == 1
    assert len(set(weights(house))) == len(weights(house))


async def test_a_cancel_by_name_is_answered_while_the_base_loads(house: House) -> None:
    messages = house.studio.draw(request(), deadline=None)
    accepted = (await anext(messages)).accepted
    assert (await anext(messages)).progress.step == 0
    following = asyncio.ensure_future(anext(messages))
    await house.blobs.asked.wait()
    live = house.studio.live(accepted.name)
    assert live is not None
    live.cancelled.set()
    with pytest.raises(Cancelled):
        await following
    assert (house.studio.live(accepted.name), house.admission.pictures) == (None, 0)


async def test_a_caller_that_leaves_does_not_stop_the_load_of_those_who_wait(house: House) -> None:
    leaving = asyncio.create_task(house.drawn())
    staying = asyncio.create_task(house.drawn())
    await house.blobs.asked.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    house.blobs.open.set()
    assert await staying == 1
    assert len(set(weights(house))) == len(weights(house))


async def test_a_load_that_everybody_left_ends_in_memory(house: House) -> None:
    leaving = asyncio.create_task(house.drawn(adapters={"a": 1.0}))
    await house.blobs.asked.wait()
    leaving.cancel()
    await asyncio.wait({leaving})
    house.blobs.open.set()
    while not house.library.residents():
        await asyncio.sleep(0.01)
    assert [(one.model.name, one.pins) for one in house.library.residents()] == [(model("base"), 0)]


async def test_a_deadline_is_answered_while_text_waits_to_be_encoded(house: House) -> None:
    house.blobs.open.set()
    assert await house.drawn() == 1
    (base,) = house.library.residents()
    busy, free = threading.Event(), threading.Event()

    def occupy() -> None:
        busy.set()
        free.wait(60)

    base.engine._reader("base")._thread.submit(occupy)
    busy.wait(60)
    try:
        with pytest.raises(Deadline):
            await house.drawn(prompt="another", deadline=time.monotonic() + 0.2)
        assert base.pins == 0
    finally:
        free.set()
    assert await house.drawn(prompt="another") == 1


async def test_closing_gives_up_what_loads(store: str, tmp_path: Path) -> None:
    house = House(store, tmp_path / "cache")
    waiting = [asyncio.create_task(house.drawn(**fields)) for fields in ({}, {"detach": True})]
    await house.blobs.asked.wait()
    async with asyncio.timeout(20):
        await house.library.close()
        for one in waiting:
            with pytest.raises(Unavailable) as caught:
                await one
            assert caught.value.reason == "SHUTTING_DOWN"
        with pytest.raises(Unavailable):  # and begins no other load
            await house.drawn()
    assert house.library.residents() == []


async def test_closing_gives_up_what_waits_for_text(store: str, tmp_path: Path) -> None:
    house = House(store, tmp_path / "cache")
    house.blobs.open.set()
    assert await house.drawn() == 1
    (base,) = house.library.residents()
    free = threading.Event()
    thread = base.engine._reader("base")._thread
    thread.submit(free.wait, 60)
    try:
        waiting = asyncio.create_task(house.drawn(prompt="another"))
        async with asyncio.timeout(20):
            while not thread._work_queue.qsize():
                await asyncio.sleep(0.005)
            await house.library.close()
            with pytest.raises(Unavailable) as caught:
                await waiting
        assert caught.value.reason == "SHUTTING_DOWN"
    finally:
        free.set()
