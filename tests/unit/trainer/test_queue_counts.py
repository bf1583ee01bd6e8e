"""The trainer counts every run that ends, once each time that it ends, and says what the others wait for."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from marsam_trainer.queue import Queue
from marsam_trainer.runs import Runs

from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock
from marsam.core.ids import new_ulid
from marsam.core.records import dump
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store.folder import FolderBlobs
from marsam.telemetry import Meter

Walk = tuple[tuple[State, str], ...]
FAILS: Walk = ((State.STARTING, ""), (State.FAILED, "PROGRAM_NOT_FOUND"))


def spec(run_id: str) -> bytes:
    fields: dict[str, object] = {
        "name": f"projects/p/runs/{run_id}", "base": "projects/p/models/base", "base_digest": "sha256:" + "0" * 64,
        "dataset_version": "projects/p/datasets/d/versions/v1", "dataset_digest": "sha256:" + "1" * 64,
        "method": "lora", "output_model_id": "m", "steps": 1, "batch_size": 1, "learning_rate": 1e-3,
        "resolution": 32, "seed": 0, "checkpoint_every": 1, "method_params": {},
    }  # fmt: skip
    return dump(RunSpec(**fields))  # type: ignore[arg-type]


async def run(store: JobStore, walk: Walk) -> str:
    made, _ = await store.create(request=new_ulid().encode(), request_id="", spec_for=spec)
    await move(store, made, walk)
    return made


async def move(store: JobStore, made: str, walk: Walk) -> None:
    for state, reason in walk:
        await store.append(made, await store.head(made), state, reason=reason)


@pytest.fixture
def meter() -> Meter:
    return Meter(service="trainer", version="0")


async def test_a_run_that_nobody_saw_open_is_counted_and_one_of_before_is_not(tmp_path: Path, meter: Meter) -> None:
    runs = Runs(FolderBlobs(tmp_path), SystemClock())
    store = runs.store("p")
    await run(store, FAILS)
    queue = Queue(runs, meter=meter)
    await queue.renew()

    def ended() -> float | None:
        return meter.value("marsam_runs_ended_total", state="FAILED", method="lora")

    assert ended() == 0
    assert meter.value("marsam_jobs", kind="runs", state="FAILED") == 1
    short = await run(store, FAILS)
    for _ in range(8):
        await queue.renew()
    assert ended() == 1
    assert meter.value("marsam_run_seconds_count", state="FAILED") == 1
    # Resumed and failed again: that is an end of its own.
    await move(store, short, ((State.PENDING, "RESUMED"),))
    await queue.renew()
    await move(store, short, FAILS)
    await queue.renew()
    assert ended() == 2
    assert meter.value("marsam_jobs", kind="runs", state="FAILED") == 2


async def test_a_run_seen_open_is_counted_as_soon_as_it_is_gone(tmp_path: Path, meter: Meter) -> None:
    runs = Runs(FolderBlobs(tmp_path), SystemClock())
    queue = Queue(runs, meter=meter)
    await queue.renew()
    seen = await run(runs.store("p"), ())
    await queue.renew()
    await move(runs.store("p"), seen, FAILS)
    await queue.renew()
    assert meter.value("marsam_runs_ended_total", state="FAILED", method="lora") == 1


async def test_news_that_comes_as_it_ends_does_not_keep_it(tmp_path: Path, meter: Meter) -> None:
    queue = Queue(Runs(FolderBlobs(tmp_path), SystemClock()), meter=meter)
    async with asyncio.timeout(10), queue.kept():
        await asyncio.sleep(1)  # it has looked, and waits for news
        queue.wake()


async def test_what_a_run_waits_for_is_told_with_the_age_of_the_oldest(tmp_path: Path, meter: Meter) -> None:
    runs = Runs(FolderBlobs(tmp_path), SystemClock())
    store = runs.store("p")
    queue = Queue(runs, meter=meter)
    walks: Mapping[str, Walk] = {
        "QUEUED": (),
        "STARTING": ((State.STARTING, ""),),
        "UNSCHEDULABLE": ((State.STARTING, "UNSCHEDULABLE"),),
        "RETRY": ((State.STARTING, ""), (State.PENDING, "RETRY")),
    }
    for walk in walks.values():
        await run(store, walk)
    await asyncio.sleep(0.05)
    await queue.renew()
    for reason in walks:
        assert 0.02 < (meter.value("marsam_runs_waiting_seconds", reason=reason) or 0) < 60
    assert meter.value("marsam_runs_waiting_seconds", reason="CREATED") is None
    for made in await store.open_ids():
        await move(store, made, ((State.CANCELLED, ""),))
    await queue.renew()
    assert [meter.value("marsam_runs_waiting_seconds", reason=reason) for reason in walks] == [0, 0, 0, 0]
