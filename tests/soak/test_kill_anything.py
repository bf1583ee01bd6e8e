"""The whole house under a stream of small work, and something in it killed every few seconds: a service, `marsam up`
itself, a run, its keeper, a decoder. What is done in the end is what would have been done without a kill."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from marsam.core.clock import SystemClock
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store.open import open_store
from tests.soak.house import VICTIMS, House
from tests.soak.span import LIMIT_S, Span, drawn
from tests.soak.streams import METHODS, Work

pytestmark = [pytest.mark.soak, pytest.mark.timeout(LIMIT_S)]

KILL_EVERY_S = (3.0, 20.0)
"""Counted from when the house is up: between two kills it gets somewhere, and is hit at every stage of its work."""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    made.configure("trainer", retry_delay_s=0.5)
    made.configure("generator", threads=1)
    made.configure("dataset", decode_workers=2)
    try:
        made.start()
        yield made
    finally:
        made.end()


async def storm(house: House, chance: random.Random, span: Span) -> None:
    """Kill and start again until the time is up."""
    while not span.over:
        await asyncio.sleep(chance.uniform(*KILL_EVERY_S))
        kind = chance.choice(VICTIMS)
        while not await asyncio.to_thread(house.kill, kind, chance):
            kind = chance.choice(VICTIMS)
        print(f"{span.gone_s:7.1f} s  killed {kind}", flush=True)


async def test_whatever_is_killed_all_work_comes_to_its_end(house: House) -> None:
    chance = drawn()
    work = Work(house=house)
    await work.prepare()
    span = Span()
    async with asyncio.TaskGroup() as group:
        group.create_task(storm(house, chance, span))
        group.create_task(work.imports(lambda: span.over))
        group.create_task(work.runs(lambda: span.over))
        group.create_task(work.pictures(lambda: span.over, chance))
    print(f"done {dict(work.done)}, killed {dict(house.kills)}", flush=True)
    blobs = open_store(str(house.home / "store"))
    made = {"runs": len(METHODS) + work.done["runs"], "imports": work.done["imports sent"], "evaluations": 0}
    for kind, count in made.items():
        jobs = JobStore(blobs, "default", kind, SystemClock())
        ids = await jobs.ids()
        assert {(await jobs.head(job_id)).state for job_id in ids} <= {State.SUCCEEDED}
        assert len(ids) == count, kind
        async with asyncio.timeout(30):
            while await jobs.open_ids():
                await asyncio.sleep(0.5)
    said = await asyncio.to_thread(house.stop)
    assert said.code == 0, said
    house.gone()
    assert sum(house.kills.values()) > 0 and min(work.done[kind] for kind in ("imports", "runs", "pictures")) > 0
