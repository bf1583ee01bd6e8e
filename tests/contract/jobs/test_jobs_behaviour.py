"""A job's life, over every store."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from marsam.core.clock import SystemClock
from marsam.core.errors import Conflict, Exists, Expired, Invalid, Missing, Precondition
from marsam.core.ids import is_ulid, new_ulid
from marsam.core.records import dump
from marsam.jobs.ended import Ended, ended
from marsam.jobs.index import Index
from marsam.jobs.progress import append_events, heartbeat, read_events, read_heartbeat
from marsam.jobs.requests import remember
from marsam.jobs.states import State, Transition
from marsam.jobs.store import JobStore
from marsam.jobs.watch import Update, watch
from marsam.store import keys
from marsam.store.blobs import Blobs, walk
from marsam.store.numbered import NumberedLog
from marsam.telemetry import Meter
from tests.contract.store.stores import STORES, open_named

CLOCK = SystemClock()


@pytest.fixture(params=sorted(STORES))
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], JobStore]:
    """The same jobs, each time as a service sees them that has just started."""
    return lambda: JobStore(open_named(request.param, tmp_path), "p", "runs", CLOCK)


@pytest.fixture
def store(reopen: Callable[[], JobStore]) -> JobStore:
    return reopen()


async def made(store: JobStore, request_id: str = "") -> str:
    job_id, _ = await store.create(request=b"train", request_id=request_id, spec_for=lambda u: f"spec {u}".encode())
    return job_id


async def drive(store: JobStore, job_id: str, *states: State) -> Transition:
    head = await store.head(job_id)
    for state in states:
        head = await store.append(job_id, head, state, owner="tester", reason=f"TO_{state}")
    return head


async def test_a_new_job_is_pending_and_open(store: JobStore) -> None:
    job_id = await made(store)
    assert is_ulid(job_id)
    head = await store.head(job_id)
    assert (head.seq, head.state, head.attempt, head.reason) == (1, State.PENDING, 0, "CREATED")
    assert await store.spec(job_id) == f"spec {job_id}".encode()
    assert await store.open_ids() == await store.ids() == [job_id]


async def test_the_same_request_gives_the_same_job_for_ever(reopen: Callable[[], JobStore]) -> None:
    first = await made(reopen(), "r-1")
    await drive(reopen(), first, State.STARTING, State.RUNNING, State.SUCCEEDED)
    for _ in range(3):
        assert await reopen().create(request=b"train", request_id="r-1", spec_for=lambda u: b"other spec") == (
            first,
            False,
        )
    assert await reopen().ids() == [first]
    assert await reopen().spec(first) == f"spec {first}".encode()
    assert await reopen().open_ids() == []


async def test_what_a_request_id_stands_for_can_be_asked(store: JobStore) -> None:
    assert await store.known(request=b"train", request_id="r-1") is None
    assert await store.known(request=b"train", request_id="") is None
    job_id = await made(store, "r-1")
    await drive(store, job_id, State.STARTING, State.RUNNING, State.SUCCEEDED)
    assert await store.known(request=b"train", request_id="r-1") == job_id
    with pytest.raises(Exists):
        await store.known(request=b"train something else", request_id="r-1")
    assert await store.ids() == [job_id]


async def test_another_request_under_the_same_id_is_refused(store: JobStore) -> None:
    job_id = await made(store, "r-1")
    with pytest.raises(Exists) as caught:
        await store.create(request=b"train something else", request_id="r-1", spec_for=lambda u: b"spec")
    error = caught.value
    assert (error.reason, error.field, error.resource) == ("REQUEST_ID_REUSED", "request_id", job_id)
    assert await store.ids() == [job_id]


async def test_the_same_request_sent_at_once_makes_one_job(reopen: Callable[[], JobStore]) -> None:
    results = await asyncio.gather(*(made(reopen(), "r-1") for _ in range(12)))
    assert len(set(results)) == 1
    assert await reopen().ids() == [results[0]]
    assert [t.state for t in await reopen().history(results[0])] == [State.PENDING]


async def test_without_a_request_id_every_create_is_new(store: JobStore) -> None:
    assert len({await made(store) for _ in range(3)}) == 3


async def test_kinds_and_projects_keep_apart(store: JobStore) -> None:
    job_id = await made(store, "r-1")
    imports = JobStore(store.blobs, "p", "imports", CLOCK)
    other = JobStore(store.blobs, "other", "runs", CLOCK)
    assert await made(imports, "r-1") != job_id
    assert await made(other, "r-1") != job_id
    assert await store.ids() == [job_id]


async def test_request_ids_of_other_creates(store: JobStore) -> None:
    async def ask(content: bytes, result: str, scope: str = "create model") -> tuple[str, bool]:
        return await remember(
            store.blobs, "p", scope=scope, request_id="r-1", content=content, result=result, clock=CLOCK
        )

    assert await ask(b"a", "first") == ("first", True)
    assert await ask(b"a", "second") == ("first", False)
    assert await ask(b"b", "third", scope="create suite") == ("third", True)
    with pytest.raises(Exists):
        await ask(b"b", "fourth")
    for bad in ("", "x" * 129):
        with pytest.raises(Invalid):
            await remember(store.blobs, "p", scope="s", request_id=bad, content=b"", result="x", clock=CLOCK)


async def test_a_life_with_two_attempts(store: JobStore) -> None:
    job_id = await made(store)
    await drive(store, job_id, State.STARTING, State.RUNNING, State.PENDING, State.STARTING, State.RUNNING)
    head = await drive(store, job_id, State.SUCCEEDED)
    assert (head.attempt, head.owner) == (2, "tester")
    history = await store.history(job_id)
    assert [(t.seq, t.state, t.attempt) for t in history] == [
        (1, State.PENDING, 0),
        (2, State.STARTING, 1),
        (3, State.RUNNING, 1),
        (4, State.PENDING, 1),
        (5, State.STARTING, 2),
        (6, State.RUNNING, 2),
        (7, State.SUCCEEDED, 2),
    ]
    assert len({t.writer_id for t in history}) == 7
    assert await store.open_ids() == []


async def test_of_two_writers_one_is_told(store: JobStore) -> None:
    job_id = await made(store)
    head = await store.head(job_id)
    outcomes = await asyncio.gather(
        *(store.append(job_id, head, State.STARTING, owner=f"o{n}") for n in range(8)), return_exceptions=True
    )
    won = [o for o in outcomes if isinstance(o, Transition)]
    lost = [o for o in outcomes if isinstance(o, Conflict)]
    assert (len(won), len(lost)) == (1, 7)
    assert {error.reason for error in lost} == {"JOB_MOVED"}
    assert await store.head(job_id) == won[0]


async def test_moves_that_there_are_not(store: JobStore) -> None:
    job_id = await made(store)
    head = await drive(store, job_id, State.STARTING, State.RUNNING, State.SUCCEEDED)
    for state in State:
        with pytest.raises(Precondition) as caught:
            await store.append(job_id, head, state)
        assert caught.value.reason == "JOB_STATE"
    assert (await store.head(job_id)) == head


async def test_a_failed_job_can_be_resumed_and_is_open_again(store: JobStore) -> None:
    for end in (State.FAILED, State.CANCELLED):
        job_id = await made(store)
        await drive(store, job_id, State.STARTING, end)
        assert job_id not in await store.open_ids()
        head = await drive(store, job_id, State.PENDING)
        assert head.attempt == 1
        assert job_id in await store.open_ids()
        assert (await drive(store, job_id, State.STARTING)).attempt == 2


async def test_move_decides_again_when_somebody_was_faster(reopen: Callable[[], JobStore]) -> None:
    job_id = await made(reopen())
    seen: list[State] = []

    async def cancel(store: JobStore) -> Transition:
        def decide(head: Transition) -> State | None:
            seen.append(head.state)
            return None if head.state is State.CANCELLED else State.CANCELLED

        return await store.move(job_id, decide, reason="ASKED")

    results = await asyncio.gather(*(cancel(reopen()) for _ in range(6)))
    assert {r.seq for r in results} == {2}
    assert State.CANCELLED in seen
    assert len(await reopen().history(job_id)) == 2


async def test_the_fence(store: JobStore) -> None:
    job_id = await made(store)
    await drive(store, job_id, State.STARTING, State.RUNNING)
    assert (await store.check_fence(job_id, 1)).state is State.RUNNING
    await drive(store, job_id, State.PENDING, State.STARTING)
    with pytest.raises(Precondition) as caught:
        await store.check_fence(job_id, 1)
    assert caught.value.reason == "JOB_FENCED"
    await store.check_fence(job_id, 2)
    await drive(store, job_id, State.FAILED)
    with pytest.raises(Precondition):
        await store.check_fence(job_id, 2)


async def test_an_unknown_job_suggests_its_neighbours(store: JobStore) -> None:
    job_id = await made(store)
    wrong = job_id[:-1] + ("0" if job_id[-1] != "0" else "1")
    for ask in (store.head, store.spec, store.history):
        with pytest.raises(Missing) as caught:
            await ask(wrong)
        assert caught.value.reason == "JOB_NOT_FOUND"
        assert caught.value.resource == f"projects/p/runs/{wrong}"
        assert job_id in caught.value.remedy
    with pytest.raises(Invalid):
        await store.head("../../etc")


@pytest.mark.slow
async def test_heartbeats_age_by_the_stores_clock(store: JobStore) -> None:
    job_id = await made(store)
    assert await read_heartbeat(store, job_id, 1) is None
    await heartbeat(store, job_id, 1, {"step": 3})
    beat = await read_heartbeat(store, job_id, 1)
    assert beat is not None
    assert beat.payload == {"step": 3}
    assert -1 < beat.age_s < 1
    await asyncio.sleep(1.1)
    aged = await read_heartbeat(store, job_id, 1)
    assert aged is not None
    assert 1 < aged.age_s < 10
    assert aged.modified == beat.modified
    await heartbeat(store, job_id, 2, {"step": 9})  # another attempt does not touch it
    assert (await read_heartbeat(store, job_id, 1) or aged).payload == {"step": 3}


async def test_events_come_back_in_order_and_once(store: JobStore) -> None:
    job_id = await made(store)
    assert await read_events(store, job_id, 1) == ([], 1)
    await append_events(store, job_id, 1, 1, [{"step": 1}, {"step": 2, "text": "a\u2028b\nc مرسم"}])
    await append_events(store, job_id, 1, 2, [{"step": 3}])
    events, following = await read_events(store, job_id, 1)
    assert events == [{"step": 1}, {"step": 2, "text": "a\u2028b\nc مرسم"}, {"step": 3}]
    assert following == 3
    assert await read_events(store, job_id, 1, start=3) == ([], 3)
    await append_events(store, job_id, 1, 2, [{"step": 3}])  # sent again
    with pytest.raises(Conflict) as caught:
        await append_events(store, job_id, 1, 2, [{"step": 99}])
    assert caught.value.reason == "SEGMENT_TAKEN"
    assert await read_events(store, job_id, 2) == ([], 1)


async def test_the_index_is_rebuilt_and_pages(reopen: Callable[[], JobStore]) -> None:
    store = reopen()
    ids = []
    for n in range(7):
        ids.append(await made(store))
        if n % 2:
            await drive(store, ids[-1], State.STARTING, State.FAILED)
        await asyncio.sleep(0.002)
    index = Index(reopen())
    await index.refresh()
    newest_first = list(reversed(ids))
    page, following = index.page(size=3)
    assert [row.job_id for row in page] == newest_first[:3]
    assert await index.specs(page[:1]) == {ids[-1]: f"spec {ids[-1]}".encode()}
    rest, end = index.page(size=10, before=following)
    assert [row.job_id for row in rest] == newest_first[3:]
    assert end == ""
    failed, _ = index.page(size=10, states=[State.FAILED])
    assert [row.job_id for row in failed] == [ids[5], ids[3], ids[1]]
    assert len(index.page(states=[State.FAILED])[0]) == 3
    assert len(index.page()[0]) == 7
    assert index.page(size=5, keep=lambda row: row.job_id == ids[2])[0][0].job_id == ids[2]
    assert index.page(size=7)[1] == ""


async def test_the_index_sees_what_other_services_did(reopen: Callable[[], JobStore]) -> None:
    job_id = await made(reopen())
    index = Index(reopen())
    await index.refresh()
    await drive(reopen(), job_id, State.STARTING, State.FAILED)
    second = await made(reopen())
    await index.refresh()
    assert {row.job_id: row.state for row in index.page(size=9)[0]} == {
        job_id: State.FAILED,
        second: State.PENDING,
    }
    await drive(reopen(), job_id, State.PENDING, State.STARTING)
    await index.refresh()
    assert {row.job_id: row.state for row in index.page(size=9)[0]}[job_id] is State.STARTING


class Reads:
    """A store that notes which objects are read."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.keys: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        self.keys.append(key)
        return await self._blobs.get(key, start=start, length=length)


async def test_the_index_of_ended_jobs_opens_none_of_them(reopen: Callable[[], JobStore]) -> None:
    store = reopen()
    ids = [await made(store) for _ in range(5)]
    for job_id in ids[:4]:
        await drive(store, job_id, State.STARTING, State.FAILED)
    await drive(store, ids[0], State.PENDING, State.STARTING, State.SUCCEEDED)  # resumed: its newest mark holds
    fresh = reopen()
    reads = Reads(fresh.blobs)
    fresh.blobs = reads
    index = Index(fresh)
    await index.refresh()
    assert {row.job_id: (row.state, row.seq) for row in index.page(size=9)[0]} == {
        ids[0]: (State.SUCCEEDED, 6),
        **dict.fromkeys(ids[1:4], (State.FAILED, 3)),
        ids[4]: (State.PENDING, 1),
    }
    assert {job_id for job_id in ids if any(job_id in key for key in reads.keys)} == {ids[4]}

    await drive(reopen(), ids[4], State.CANCELLED)  # between two looks: one job ends, another comes and goes
    brief = await made(reopen())
    await drive(reopen(), brief, State.CANCELLED)
    reads.keys.clear()
    await index.refresh()
    assert len(index.page(states=[State.CANCELLED])[0]) == 2
    assert reads.keys == []


async def test_a_job_that_ended_without_a_mark_is_found(reopen: Callable[[], JobStore]) -> None:
    store = reopen()
    job_id = await made(store)
    await drive(store, job_id, State.STARTING, State.FAILED)
    marks = [key async for key in walk(store.blobs, keys.ended_jobs("p", "runs"))]
    assert [key.rpartition("/")[2] for key in marks] == [f"{job_id}.00000003.failed"]
    await store.blobs.delete(marks)
    index = Index(reopen())
    await index.refresh()
    assert len(index.page(states=[State.FAILED])[0]) == 1


async def test_what_a_killed_service_left_half_ended_is_marked(reopen: Callable[[], JobStore]) -> None:
    store = reopen()
    job_id = await made(store)
    head = await drive(store, job_id, State.STARTING)
    last = replace(head, seq=3, state=State.FAILED, writer_id=new_ulid())
    await NumberedLog(store.blobs, keys.job_log("p", "runs", job_id)).append(2, dump(last))  # and no more
    assert await reopen().live() == {}
    assert await reopen().open_ids() == []
    marks = await ended(store.blobs, "p", "runs", since=None, until=head.at.date())
    assert marks == {job_id: Ended(seq=3, state=State.FAILED)}


async def test_the_index_keeps_little_of_each_job(store: JobStore) -> None:
    curve = {"loss_curve": [[float(step), 1 / step] for step in range(1, 501)]}
    for _ in range(20):
        job_id = await made(store)
        await store.append(job_id, await drive(store, job_id, State.STARTING), State.SUCCEEDED, detail=curve)
    index = Index(store)
    await index.refresh()  # once, so that what the process keeps besides is there already
    fresh = Index(store)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await fresh.refresh()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(fresh.page(states=[State.SUCCEEDED])[0]) == 20
    assert held < 20 * 4096


async def collect(store: JobStore, job_id: str, token: str = "") -> list[Update]:
    return [update async for update in watch(store, job_id, token=token, poll_s=0.02)]


async def test_a_watch_tells_everything_once_and_ends(reopen: Callable[[], JobStore]) -> None:
    store = reopen()
    job_id = await made(store)
    watching = asyncio.create_task(collect(reopen(), job_id))
    await asyncio.sleep(0.1)
    for attempt in (1, 2):
        await drive(store, job_id, State.STARTING, State.RUNNING)
        for segment in (1, 2, 3):
            await append_events(store, job_id, attempt, segment, [{"at": f"{attempt}.{segment}"}])
            await asyncio.sleep(0.03)
        await drive(store, job_id, State.PENDING if attempt == 1 else State.SUCCEEDED)
    updates = await asyncio.wait_for(watching, 20)
    assert [e["at"] for u in updates for e in u.events] == [f"{a}.{s}" for a in (1, 2) for s in (1, 2, 3)]
    states = [u.transition for u in updates if u.transition is not None]
    assert states[0].state is State.PENDING
    assert states[-1].state is State.SUCCEEDED
    assert [t.seq for t in states] == sorted({t.seq for t in states})

    late = await collect(reopen(), job_id)  # who comes after the end is told all of it
    assert [e["at"] for u in late for e in u.events] == [f"{a}.{s}" for a in (1, 2) for s in (1, 2, 3)]
    assert [u.transition.state for u in late if u.transition] == [State.SUCCEEDED]

    for at, update in enumerate(updates):  # a broken connection goes on from its last token, whichever it was
        rest = await collect(reopen(), job_id, update.token)
        expected = [e["at"] for u in updates[at + 1 :] for e in u.events]
        assert [e["at"] for u in rest for e in u.events] == expected
    assert await collect(reopen(), job_id, updates[-1].token) == []


@pytest.mark.parametrize("token", ["x", "1.1", "1.1.1.1", "-1.1.1", "1.1.x", "1.1.0", "١.١.١", "1.1.999999999"])
async def test_a_token_that_is_none(store: JobStore, token: str) -> None:
    job_id = await made(store)
    with pytest.raises(Invalid) as caught:
        await collect(store, job_id, token)
    assert caught.value.reason == "TOKEN_MALFORMED"


async def test_a_token_from_the_future(store: JobStore) -> None:
    job_id = await made(store)
    for token in ("9.0.1", "1.1.1"):
        with pytest.raises(Expired):
            await collect(store, job_id, token)


async def test_every_transition_written_is_counted_and_no_other(tmp_path: Path) -> None:
    meter = Meter(service="test", version="0")
    store = JobStore(open_named("folder", tmp_path), "p", "runs", CLOCK, meter=meter)
    job_id = await made(store, "r-1")
    await made(store, "r-1")
    head = await store.head(job_id)
    await drive(store, job_id, State.STARTING, State.PENDING, State.STARTING, State.SUCCEEDED)
    with pytest.raises(Conflict):
        await store.append(job_id, head, State.STARTING)
    counted = {
        state: meter.value("marsam_job_transitions_total", kind="runs", state=state)
        for state in (State.PENDING, State.STARTING, State.RUNNING, State.SUCCEEDED)
    }
    assert counted == {State.PENDING: 2, State.STARTING: 2, State.RUNNING: None, State.SUCCEEDED: 1}


async def test_what_is_remembered_of_jobs_is_bounded(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marsam.jobs.store._SEEN_KEPT", 2)
    ids = [await made(store) for _ in range(5)]
    await drive(store, ids[0], State.STARTING)
    for job_id in ids:
        assert (await store.head(job_id)).seq == (2 if job_id == ids[0] else 1)
    assert list(store._seen) == ids[-2:]


def test_transitions_keep_their_bounds() -> None:
    at = datetime.now(UTC) - timedelta(days=1)
    for seq, attempt in ((0, 0), (1, -1)):
        with pytest.raises(Invalid):
            Transition(seq=seq, state=State.PENDING, attempt=attempt, writer_id="w", at=at)
