"""Imports and those who watch them, when nothing happens for long and when the store is full."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from marsam_dataset.ingest import imports
from marsam_dataset.ingest.imports import Imports
from marsam_dataset.ingest.records import ImportSpec, Verdict
from marsam_dataset.watching import until

from marsam.catalog.datasets import Dataset, Rights
from marsam.catalog.repository import save_dataset
from marsam.core.clock import SystemClock
from marsam.core.errors import Exhausted, Unavailable
from marsam.core.records import dump
from marsam.imaging.pool import DecodePool
from marsam.jobs.progress import append_events
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store.folder import FolderBlobs
from marsam.telemetry import Meter

DATASET = "projects/p/datasets/d"


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
    blobs, clock = FolderBlobs(tmp_path), SystemClock()
    await save_dataset(blobs, Dataset(name=DATASET, create_time=clock.now()))
    meter = Meter(service="dataset", version="0")
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
