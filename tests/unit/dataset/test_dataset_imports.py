"""Imports and those who watch them, when nothing happens for long and when the store is full."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from marsam_dataset.ingest import imports
from marsam_dataset.ingest.imports import Imports
from marsam_dataset.ingest.records import Verdict
from marsam_dataset.watching import until
from PIL import Image

from marsam.catalog.datasets import Dataset, Rights
from marsam.catalog.imports import ImportSpec, Received
from marsam.catalog.repository import list_items, save_dataset
from marsam.core.clock import SystemClock
from marsam.core.errors import Exhausted, Unavailable
from marsam.core.records import dump
from marsam.imaging.pool import Decoded, DecodePool, Rejected
from marsam.jobs.progress import append_events
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store.content import put_blob
from marsam.store.folder import FolderBlobs
from marsam.telemetry import Meter

DATASET = "projects/p/datasets/d"


async def with_dataset(folder: Path) -> tuple[FolderBlobs, SystemClock, Meter]:
    """A store in `folder` that holds an empty dataset, and what else an `Imports` needs."""
    blobs, clock = FolderBlobs(folder), SystemClock()
    await save_dataset(blobs, Dataset(name=DATASET, create_time=clock.now()))
    return blobs, clock, Meter(service="dataset", version="0")


async def test_a_watch_repeats_its_last_word_while_nothing_happens() -> None:
    stop, more = asyncio.Event(), asyncio.Event()

    async def updates() -> Any:
        yield "waiting"
        await more.wait()
        yield "done"

    seen = []
    async for word in until(stop, updates(), silence_s=0.02):
        seen.append(word)
        if len(seen) == 3:
            more.set()
    assert seen[:3] == ["waiting"] * 3 and seen[-1] == "done"


async def test_a_watch_ends_with_a_word_when_the_service_stops() -> None:
    stop = asyncio.Event()

    async def updates() -> Any:
        yield "waiting"
        await asyncio.Event().wait()

    with pytest.raises(Unavailable) as caught:
        async for _ in until(stop, updates()):
            stop.set()
    assert caught.value.reason == "RECONNECT"


async def test_the_watch_of_an_import_begins_with_the_whole_of_it(tmp_path: Path) -> None:
    blobs, clock, meter = await with_dataset(tmp_path)
    held = Imports(blobs, pool=DecodePool(size=1), workers=1, owner="me", clock=clock, meter=meter)
    jobs = JobStore(blobs, "p", "imports", clock)
    asked = dump(ImportSpec(dataset=DATASET, listing="", files=3))
    job_id, _ = await jobs.create(request=b"", request_id="", spec_for=lambda _: asked)
    for attempt in (1, 2):
        head = await jobs.append(job_id, await jobs.head(job_id), State.STARTING)
        head = await jobs.append(job_id, head, State.RUNNING)
        verdicts = [Verdict(path=f"{attempt}.png", accepted=True, item=f"item {attempt}").event()]
        await append_events(jobs, job_id, attempt, 1, verdicts)
        if attempt == 1:
            await jobs.append(job_id, head, State.PENDING)
    name = f"projects/p/imports/{job_id}"
    running = await anext(held.watch(name))
    assert (running.state, running.accepted) == (State.RUNNING, 2)
    await jobs.append(job_id, head, State.SUCCEEDED)
    assert [(t.state, t.accepted) async for t in held.watch(name)] == [(State.SUCCEEDED, 2)]


class Full(FolderBlobs):
    """A store on a disk that may be full."""

    full = False

    async def create(self, key: str, data: bytes) -> None:
        if self.full:
            raise Exhausted("no room", reason="STORE_FULL")
        await super().create(key, data)


async def test_an_import_whose_end_could_not_be_recorded_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "_AGAIN_S", 0.02)
    blobs, clock = Full(tmp_path), SystemClock()
    await save_dataset(blobs, Dataset(name=DATASET, create_time=clock.now()))
    meter = Meter(service="dataset", version="0")
    async with (
        DecodePool(size=1) as pool,
        Imports(blobs, pool=pool, workers=1, owner="me", clock=clock, meter=meter) as held,
    ):
        turn = held._turn
        async with turn:  # recorded while there is room, begun when there is none
            name, _ = await held.create(DATASET, [], default_rights=Rights(), request_id="r")
            blobs.full = True
        await asyncio.sleep(0.2)
        assert (await held.tally(name)).state is State.PENDING
        blobs.full = False
        async with asyncio.timeout(20):
            while (await held.tally(name)).state is not State.SUCCEEDED:
                await asyncio.sleep(0.02)


def many(count: int) -> list[bytes]:
    made = []
    for number in range(count):
        out = io.BytesIO()
        Image.new("RGB", (64, 64), (number, 80, 90)).save(out, format="PNG")
        made.append(out.getvalue())
    return made


async def received(blobs: FolderBlobs, files: list[bytes]) -> list[Received]:
    stored = [await put_blob(blobs, "p", data) for data in files]
    return [Received(path=f"{n:02d}.png", digest=one.digest, size=one.size) for n, one in enumerate(stored)]


class Slow(DecodePool):
    """A decoder that waits until it is let go."""

    def __init__(self) -> None:
        super().__init__(size=1)
        self.entered, self.go = asyncio.Event(), asyncio.Event()

    async def decode(self, data: bytes) -> Decoded | Rejected:
        self.entered.set()
        await self.go.wait()
        return await super().decode(data)


async def until_over(held: Imports, name: str) -> None:
    async with asyncio.timeout(30):
        while not (await held.tally(name)).state.terminal:
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_an_import_stays_with_its_living_owner_and_falls_to_another_when_that_is_gone(tmp_path: Path) -> None:
    blobs, clock, meter = await with_dataset(tmp_path)
    jobs = JobStore(blobs, "p", "imports", clock)
    slow = Slow()

    def imports_of(owner: str, pool: DecodePool) -> Imports:
        return Imports(blobs, pool=pool, workers=1, owner=owner, clock=clock, meter=meter, lease_s=1.0)

    async with slow, DecodePool(size=1) as quick, imports_of("first", slow) as first:
        files = await received(blobs, many(3))
        name, _ = await first.create(DATASET, files, default_rights=Rights(), request_id="r")
        job_id = name.rpartition("/")[2]
        await asyncio.wait_for(slow.entered.wait(), 20)
        async with imports_of("second", quick) as second:
            # It looks again every half lease, and each time finds the first one's signs of life.
            await asyncio.sleep(2.5)
            head = await jobs.head(job_id)
            assert (head.state, head.owner, head.attempt) == (State.RUNNING, "first", 1)
            # As if the first one's process stood still: its job is neither driven on nor let go.
            driving = first._tasks[job_id]
            first._lease_s = 1000.0
            await until_over(second, name)
            tally = await second.tally(name)
            assert (tally.state, tally.accepted) == (State.SUCCEEDED, 3)
            head = await jobs.head(job_id)
            assert (head.owner, head.attempt) == ("second", 2)
            assert not driving.done()
            # It wakes, and what it brings to an end is over: neither a state nor an item comes of it.
            slow.go.set()
            await asyncio.wait_for(driving, 20)
            assert (await jobs.head(job_id)) == head
            assert len(await list_items(blobs, DATASET)) == 3


async def test_a_slow_owner_that_was_replaced_stops_at_its_next_sign_of_life(tmp_path: Path) -> None:
    blobs, clock, meter = await with_dataset(tmp_path)
    jobs = JobStore(blobs, "p", "imports", clock)
    slow = Slow()
    async with (
        slow,
        Imports(blobs, pool=slow, workers=1, owner="me", clock=clock, meter=meter, lease_s=60.0) as held,
    ):
        held._lease_s = 0.3
        files = await received(blobs, many(1))
        name, _ = await held.create(DATASET, files, default_rights=Rights(), request_id="r")
        job_id = name.rpartition("/")[2]
        await asyncio.wait_for(slow.entered.wait(), 20)
        head = await jobs.append(job_id, await jobs.head(job_id), State.PENDING, owner="other")
        head = await jobs.append(job_id, head, State.STARTING, owner="other")
        await asyncio.wait_for(held._tasks[job_id], 20)
        assert await jobs.head(job_id) == head


async def test_a_stopped_service_hands_its_import_back(tmp_path: Path) -> None:
    blobs, clock, meter = await with_dataset(tmp_path)
    slow = Slow()
    async with slow, Imports(blobs, pool=slow, workers=1, owner="me", clock=clock, meter=meter) as held:
        files = await received(blobs, many(1))
        name, _ = await held.create(DATASET, files, default_rights=Rights(), request_id="r")
        await asyncio.wait_for(slow.entered.wait(), 20)
    head = await JobStore(blobs, "p", "imports", clock).head(name.rpartition("/")[2])
    assert (head.state, head.reason) == (State.PENDING, "SERVICE_STOPPED")
    counted = {state: meter.value("marsam_job_transitions_total", kind="imports", state=state) for state in State}
    assert {state: count for state, count in counted.items() if count} == {
        State.PENDING: 2, State.STARTING: 1, State.RUNNING: 1,
    }  # fmt: skip
