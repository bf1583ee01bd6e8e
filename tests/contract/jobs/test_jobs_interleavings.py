"""Services that all move the same job as they please: whatever the order, the history is one valid life."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from marsam.core.clock import SystemClock
from marsam.core.errors import Conflict, Precondition
from marsam.jobs.states import State, Transition, check_move
from marsam.jobs.store import JobStore
from marsam.store.folder import FolderBlobs
from tests.contract.store.stores import STORES, open_named


@pytest.mark.parametrize("name", sorted(STORES))
@pytest.mark.parametrize("seed", range(8))
async def test_any_interleaving_is_one_valid_life(name: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    stores = [JobStore(open_named(name, tmp_path), "p", "runs", SystemClock()) for _ in range(5)]
    job_id, _ = await stores[0].create(request=b"", request_id="r", spec_for=lambda _: b"spec")
    acknowledged: list[Transition] = []

    async def actor(store: JobStore) -> None:
        head = await store.head(job_id)
        for _ in range(25):
            if chance.random() < 0.7:  # often, but not always, look before deciding
                head = await store.head(job_id)
            if chance.random() < 0.1:
                await store.live()
            try:
                head = await store.append(job_id, head, chance.choice(list(State)))
            except (Conflict, Precondition):
                continue
            acknowledged.append(head)

    await asyncio.gather(*(actor(store) for store in stores))

    fresh = JobStore(open_named(name, tmp_path), "p", "runs", SystemClock())
    history = await fresh.history(job_id)
    previous = None
    for entry in history:
        check_move(previous, entry.state, entry.attempt)
        assert entry.seq == (previous.seq + 1 if previous else 1)
        previous = entry
    assert sorted(acknowledged, key=lambda t: t.seq) == history[1:]
    over = history[-1].state.terminal
    assert (await fresh.open_ids() == [job_id]) is not over
    assert list(await fresh.live()) == ([] if over else [job_id])


@pytest.mark.parametrize("nth", [2, 3])
async def test_a_job_that_ends_while_it_is_reopened_keeps_no_mark(nth: int, tmp_path: Path) -> None:
    """Whoever marks it late, after its reopening (2) or because the closing saw it reopened (3), looks once more."""
    blobs = FolderBlobs(tmp_path)
    other = JobStore(blobs, "p", "runs", SystemClock())
    job_id, _ = await other.create(request=b"", request_id="r", spec_for=lambda _: b"spec")
    await other.append(job_id, await other.head(job_id), State.CANCELLED)

    class Late(FolderBlobs):
        marks = 0

        async def create(self, key: str, data: bytes) -> None:
            if "/open/" in key:
                self.marks += 1
                if self.marks == nth:
                    await other.move(job_id, lambda head: None if head.state.terminal else State.CANCELLED)
            await super().create(key, data)

        async def delete(self, keys: Sequence[str]) -> None:
            await super().delete(keys)
            if nth == 3 and self.marks == 2:
                await other.append(job_id, await other.head(job_id), State.PENDING)

    store = JobStore(Late(tmp_path), "p", "runs", SystemClock())
    head = await store.append(job_id, await store.head(job_id), State.PENDING)
    if nth == 3:
        await store.append(job_id, head, State.CANCELLED)
    assert (await other.head(job_id)).state is State.CANCELLED
    assert await other.open_ids() == []


async def test_a_reopening_that_came_too_late_leaves_no_mark(tmp_path: Path) -> None:
    store, other = (JobStore(FolderBlobs(tmp_path), "p", "runs", SystemClock()) for _ in range(2))
    job_id, _ = await other.create(request=b"", request_id="r", spec_for=lambda _: b"spec")
    ended = await other.append(job_id, await other.head(job_id), State.CANCELLED)
    again = await other.append(job_id, ended, State.PENDING)
    await other.append(job_id, again, State.CANCELLED)
    with pytest.raises(Conflict):
        await store.append(job_id, ended, State.PENDING)
    assert await other.open_ids() == []
