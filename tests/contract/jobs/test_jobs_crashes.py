"""A service may be killed between any two writes: the next one picks up every job, once, and loses none."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from marsam.core.clock import SystemClock
from marsam.jobs.index import Index
from marsam.jobs.progress import read_events, read_heartbeat
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store.folder import FolderBlobs
from tests.contract.jobs import victim

KILLED = -9


def jobs(tmp_path: Path) -> JobStore:
    return JobStore(FolderBlobs(tmp_path), "p", "runs", SystemClock())


def run(act: str, tmp_path: Path, n: int, when: str) -> int:
    command = [sys.executable, victim.__file__, act, str(tmp_path), str(n), when]
    return subprocess.run(command, check=False, timeout=60).returncode


def deaths(act: str, tmp_path: Path) -> Iterator[Path]:
    """Run `act` once for every write, dying before or after it, each time in a store of its own."""
    for when in ("before", "after"):
        for n in range(1, 50):
            folder = tmp_path / f"{when}-{n}"
            folder.mkdir()
            yield folder
            code = run(act, folder, n, when)
            assert code in (0, KILLED)
            yield folder
            if code == 0:
                break
        else:
            pytest.fail("never came to its end")


def churn(folder: Path, seconds: float) -> list[str]:
    """Let a service work for a while, kill it, and return the ids of the jobs that it said it had made."""
    command = [sys.executable, victim.__file__, "churn", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(seconds)
    process.kill()
    return [*first.split(), *process.communicate()[0].split()]


@pytest.mark.slow
async def test_a_create_that_was_cut_off_is_completed_by_the_same_request(tmp_path: Path) -> None:
    survivors = 0
    for turn, folder in enumerate(deaths("create", tmp_path)):
        if turn % 2 == 0:
            continue
        survivors += 1
        await jobs(folder).live()  # a service that starts must cope with whatever was left
        store = jobs(folder)
        again = [
            await store.create(request=b"train", request_id="r-1", spec_for=lambda u: f"spec {u}".encode())
            for _ in range(2)
        ]
        assert again[0][0] == again[1][0]
        assert again[1][1] is False
        assert await store.ids() == [again[0][0]]
        assert await store.spec(again[0][0]) == f"spec {again[0][0]}".encode()
        live = await jobs(folder).live()
        assert {job_id: head.state for job_id, head in live.items()} == {again[0][0]: State.PENDING}
    assert survivors >= 8


@pytest.mark.slow
async def test_a_job_whose_driver_was_killed_is_picked_up_and_finished(tmp_path: Path) -> None:
    ended = set()
    for turn, folder in enumerate(deaths("finish", tmp_path)):
        if turn % 2 == 0:
            await victim.create(jobs(folder))
            continue
        store = jobs(folder)
        (job_id,) = await store.ids()
        head = await store.head(job_id)
        live = await store.live()
        assert list(live) == ([] if head.state.terminal else [job_id])
        ended.add(head.state)
        if head.state is State.RUNNING:  # what the next service does with an attempt that is gone
            head = await store.append(job_id, head, State.PENDING, reason="LOST")
        for state in (State.STARTING, State.RUNNING, State.SUCCEEDED):
            if head.state is not State.SUCCEEDED and not (head.state is State.STARTING and state is State.STARTING):
                head = await store.append(job_id, head, state)
        assert await jobs(folder).open_ids() == []
        assert await jobs(folder).live() == {}
        assert [t.seq for t in await store.history(job_id)] == list(range(1, head.seq + 1))
    assert ended == {State.PENDING, State.STARTING, State.RUNNING, State.SUCCEEDED}


@pytest.mark.slow
async def test_a_resumed_job_is_never_forgotten(tmp_path: Path) -> None:
    for turn, folder in enumerate(deaths("resume", tmp_path)):
        store = jobs(folder)
        if turn % 2 == 0:
            await victim.create(store)
            (job_id,) = await store.ids()
            head = await store.append(job_id, await store.head(job_id), State.STARTING)
            await store.append(job_id, head, State.FAILED)
            assert await store.open_ids() == []
            continue
        (job_id,) = await store.ids()
        head = await store.head(job_id)
        assert head.state in (State.FAILED, State.PENDING)
        assert list(await store.live()) == ([job_id] if head.state is State.PENDING else [])
        assert await store.open_ids() == list(await store.live())


@pytest.mark.slow
async def test_killed_at_any_moment_nothing_is_torn(tmp_path: Path) -> None:
    for turn in range(6):
        folder = tmp_path / str(turn)
        told = churn(folder, 0.05 + 0.07 * turn)
        store = jobs(folder)
        ids = await store.ids()
        assert set(told) <= set(ids)
        index = Index(store)
        await index.refresh()
        live = await store.live()
        for job_id in ids:
            if job_id not in {row.job_id for row in index.page(size=10_000)[0]}:
                assert job_id == max(ids)  # only the last one can be half-made
                continue
            history = await store.history(job_id)
            assert [t.seq for t in history] == list(range(1, len(history) + 1))
            assert (job_id in live) is not history[-1].state.terminal
            events, _ = await read_events(store, job_id, 1)
            assert [e["segment"] for e in events] == list(range(1, len(events) + 1))
            assert all(len(e["filler"]) == 20_000 for e in events)
            beat = await read_heartbeat(store, job_id, 1)
            assert beat is None or len(beat.payload["filler"]) == 20_000
