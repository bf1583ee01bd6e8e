"""What a program waits for, in its job's record: told when it is news, moving nothing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from marsam.core.errors import Conflict
from marsam.jobs.states import State, Transition
from marsam.jobs.store import JobStore
from marsam.launch.launcher import Waiting
from marsam.launch.waits import tell_wait
from marsam.store.folder import FolderBlobs


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2026, 11, 25, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> JobStore:
    return JobStore(FolderBlobs(tmp_path), "p", "evaluations", clock)


async def begun(store: JobStore) -> tuple[str, Transition]:
    job_id, _ = await store.create(request=b"", request_id="", spec_for=lambda _: b"{}")
    return job_id, await store.append(job_id, await store.head(job_id), State.STARTING, owner="me")


async def test_a_wait_is_told_once_and_moves_nothing(store: JobStore, clock: Clock) -> None:
    job_id, head = await begun(store)
    nodes = Waiting(reason="UNSCHEDULABLE", message="0/3 nodes")
    told = await tell_wait(store, job_id, head, nodes)
    assert (told.state, told.attempt, told.owner) == (head.state, head.attempt, "me")
    assert (told.reason, told.message, told.seq) == ("UNSCHEDULABLE", "0/3 nodes", head.seq + 1)
    assert await store.head(job_id) == told
    assert await tell_wait(store, job_id, told, nodes) is told
    after = await store.append(job_id, told, State.RUNNING)
    assert (after.attempt, after.reason) == (1, "")


async def test_other_words_for_the_same_wait_come_a_minute_later(store: JobStore, clock: Clock) -> None:
    job_id, head = await begun(store)
    head = await tell_wait(store, job_id, head, Waiting(reason="UNSCHEDULABLE", message="0/3 nodes"))
    more = Waiting(reason="UNSCHEDULABLE", message="0/4 nodes")
    assert await tell_wait(store, job_id, head, more) is head
    assert (await tell_wait(store, job_id, head, Waiting(reason="IMAGE_PULL", message="no"))).seq == head.seq + 1
    head = await store.head(job_id)
    head = await tell_wait(store, job_id, head, more)
    clock.at += timedelta(seconds=61)
    assert (
        await tell_wait(store, job_id, head, Waiting(reason="UNSCHEDULABLE", message="0/5 nodes"))
    ).seq == head.seq + 1


async def test_a_brief_wait_is_not_worth_an_entry(store: JobStore) -> None:
    job_id, head = await begun(store)
    assert await tell_wait(store, job_id, head, Waiting(reason="STARTING")) is head


async def test_whoever_moved_the_job_first_is_right(store: JobStore) -> None:
    job_id, head = await begun(store)
    await store.append(job_id, head, State.RUNNING)
    with pytest.raises(Conflict) as caught:
        await tell_wait(store, job_id, head, Waiting(reason="QUEUED", message="x"))
    assert caught.value.reason == "JOB_MOVED"
    assert (await store.head(job_id)).state is State.RUNNING
