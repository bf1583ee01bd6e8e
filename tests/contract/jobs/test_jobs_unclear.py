"""Creates whose answers were lost: what was written counts once, what was not is written now, and nobody is doubled."""

from pathlib import Path

import pytest

from marsam.core.clock import SystemClock
from marsam.core.errors import Conflict, OutcomeUnknown
from marsam.jobs.progress import append_events, read_events
from marsam.jobs.requests import remember
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store.blobs import create_surely
from marsam.store.numbered import NumberedLog
from tests.contract.store.unclear import Fate, UnclearBlobs

CLOCK = SystemClock()
LOST: tuple[Fate, ...] = ("lost before", "lost after")
WRITES = 4
"""Creates that a new job takes: request, mark, spec, first transition."""


@pytest.fixture
def blobs(tmp_path: Path) -> UnclearBlobs:
    return UnclearBlobs(tmp_path)


@pytest.fixture
def jobs(blobs: UnclearBlobs) -> JobStore:
    return JobStore(blobs, "p", "runs", CLOCK)


async def made(jobs: JobStore, request_id: str = "r-1") -> tuple[str, bool]:
    return await jobs.create(request=b"train", request_id=request_id, spec_for=lambda u: f"spec {u}".encode())


@pytest.mark.parametrize("fate", LOST)
async def test_a_log_takes_the_entry_once(blobs: UnclearBlobs, fate: Fate) -> None:
    log = NumberedLog(blobs, "p/p/a")
    blobs.meet(fate)
    assert await log.append(0, b"mine") == 1
    assert await log.read_all() == [b"mine"]
    assert blobs.creates == ["p/p/a/00000001"] * 2


@pytest.mark.parametrize("fate", LOST)
async def test_a_log_tells_whose_the_entry_is(blobs: UnclearBlobs, fate: Fate) -> None:
    log = NumberedLog(blobs, "p/p/a")
    await log.append(0, b"theirs")
    blobs.meet("lost before")
    with pytest.raises(Conflict) as caught:
        await log.append(0, b"mine")
    assert caught.value.reason == "LOG_MOVED"
    blobs.meet(fate)
    assert await log.append(1, b"mine") == 2
    assert await log.read_all() == [b"theirs", b"mine"]


async def test_a_store_that_stays_unclear_is_said_to_be(blobs: UnclearBlobs) -> None:
    blobs.meet(*["lost before"] * 9)
    with pytest.raises(OutcomeUnknown):
        await create_surely(blobs, "p/p/a", b"x")
    assert len(blobs.creates) == 3


@pytest.mark.parametrize("fate", LOST)
@pytest.mark.parametrize("write", range(WRITES))
async def test_a_job_is_made_once(jobs: JobStore, blobs: UnclearBlobs, write: int, fate: Fate) -> None:
    blobs.meet(*["answered"] * write, fate)
    job_id, new = await made(jobs)
    assert new
    assert len(blobs.creates) == WRITES + 1
    assert await jobs.ids() == await jobs.open_ids() == [job_id]
    assert [entry.reason for entry in await jobs.history(job_id)] == ["CREATED"]
    assert await jobs.spec(job_id) == f"spec {job_id}".encode()
    assert await made(jobs) == (job_id, False)


@pytest.mark.parametrize("write", range(WRITES))
async def test_a_job_whose_creation_stayed_unclear_is_completed_by_the_same_request(
    jobs: JobStore, blobs: UnclearBlobs, write: int
) -> None:
    blobs.meet(*["answered"] * write, "lost after", "lost before", "lost before")
    with pytest.raises(OutcomeUnknown):
        await made(jobs)
    job_id, _ = await made(jobs)
    assert await jobs.ids() == [job_id]
    assert len(await jobs.history(job_id)) == 1


@pytest.mark.parametrize("fate", LOST)
async def test_a_transition_is_written_once(jobs: JobStore, blobs: UnclearBlobs, fate: Fate) -> None:
    job_id, _ = await made(jobs)
    head = await jobs.head(job_id)
    blobs.meet(fate)
    moved = await jobs.append(job_id, head, State.STARTING, owner="here")
    assert (moved.seq, moved.attempt) == (2, 1)
    assert await jobs.head(job_id) == moved
    blobs.meet("lost before")
    with pytest.raises(Conflict) as caught:  # the same move from the same look is another writer's
        await jobs.append(job_id, head, State.STARTING, owner="there")
    assert caught.value.reason == "JOB_MOVED"
    assert len(await jobs.history(job_id)) == 2


async def test_a_transition_that_stayed_unclear_shows_at_the_next_look(jobs: JobStore, blobs: UnclearBlobs) -> None:
    job_id, _ = await made(jobs)
    blobs.meet("lost after", "lost before", "lost before")
    with pytest.raises(OutcomeUnknown):
        await jobs.append(job_id, await jobs.head(job_id), State.STARTING, owner="here")
    assert (await jobs.head(job_id)).state is State.STARTING


@pytest.mark.parametrize("fate", LOST)
async def test_request_ids_and_events_too(jobs: JobStore, blobs: UnclearBlobs, fate: Fate) -> None:
    blobs.meet(fate)
    bound = await remember(blobs, "p", scope="s", request_id="r", content=b"c", result="first", clock=CLOCK)
    assert bound == ("first", True)
    job_id, _ = await made(jobs)
    blobs.meet(fate)
    await append_events(jobs, job_id, 1, 1, [{"step": 1}])
    assert await read_events(jobs, job_id, 1) == ([{"step": 1}], 2)
