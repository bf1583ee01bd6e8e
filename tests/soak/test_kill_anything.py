"""The whole house under a stream of small work, and something in it killed every few seconds: a service, `marsam up`
itself, a run, its keeper, a decoder. What is done in the end is what would have been done without a kill."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
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
LOOKS = 100
"""How often the storm looks for a process of a kind that is still to be killed, before it waits for the next kill."""


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


async def storm(house: House, chance: random.Random, over: Callable[[], bool]) -> None:
    """Kill and start again until it is over: every kind once, in any order, then every kind again."""
    waiting: list[str] = []
    began = time.monotonic()
    while not over():
        await asyncio.sleep(chance.uniform(*KILL_EVERY_S))
        waiting = waiting or chance.sample(VICTIMS, len(VICTIMS))
        for kind in waiting * LOOKS:  # there is not a process of every kind at every moment
            if await asyncio.to_thread(house.kill, kind, chance):
                waiting.remove(kind)
                print(f"{time.monotonic() - began:7.1f} s  killed {kind}", flush=True)
                break
            await asyncio.sleep(0.05)


async def test_whatever_is_killed_all_work_comes_to_its_end(house: House) -> None:
    chance = drawn()
    work = Work(house=house)
    await work.prepare()
    span = Span()

    def over() -> bool:
        return span.over and set(house.kills) == set(VICTIMS)

    async with asyncio.TaskGroup() as group:
        group.create_task(storm(house, chance, over))
        group.create_task(work.imports(over))
        group.create_task(work.runs(over))
        group.create_task(work.pictures(over, chance))
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
    assert min(work.done[kind] for kind in ("imports", "runs", "pictures")) > 0
