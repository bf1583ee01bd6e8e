"""Runs and a service that ends and comes back: request ids, the queue, adoption, zombies, silent programs."""

import asyncio
import contextlib
import os
import signal
import urllib.request
from pathlib import Path

import grpc
import pytest

from marsam.api.trainer.v1 import trainer_pb2
from marsam.core.errors import Exists
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.rpc.wire import error_of
from marsam.store.open import open_store
from tests.integration.trainer.harness import CLOCK, PARENT, Service, place_base, place_version, state

pytestmark = pytest.mark.slow


def jobs_of(service: Service) -> JobStore:
    return JobStore(open_store(str(service.store)), "default", "runs", CLOCK)


def program_pid(run: str, attempt: int) -> int:
    """The process of a run's attempt, found by its command line."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if run.encode() in words and b"keeper.py" not in b" ".join(words) and str(attempt).encode() in words:
                return int(entry.name)
    raise LookupError(run)


def scraped(service: Service) -> str:
    with urllib.request.urlopen(f"{service.http}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


async def test_one_request_id_is_one_run_for_ever(service: Service) -> None:
    first = await service.create(request_id="r1", output_model_id="m1")
    await service.until(first.name, "SUCCEEDED")
    # By now the model id is taken, which must not matter to a repeated request.
    assert (await service.create(request_id="r1", output_model_id="m1")).name == first.name
    await service.stop()
    await service.start()
    assert (await service.create(request_id="r1", output_model_id="m1")).name == first.name
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.create(request_id="r1", output_model_id="m2")
    assert error_of(caught.value).reason == "REQUEST_ID_REUSED"
    assert isinstance(error_of(caught.value), Exists)


async def test_a_silent_program_is_stopped_and_tried_again(tmp_path: Path) -> None:
    async with Service(tmp_path, run_silence_s=1.0, max_attempts=2) as service:
        blobs = open_store(str(service.store))
        await place_base(blobs)
        await place_version(blobs)
        run = await service.create(labels={"beats": "1", "step-s": "30", "on-term": "ignore"}, steps=3)
        await service.until(run.name, "RUNNING")
        run = await service.until(run.name, "FAILED", timeout_s=60)
        assert (run.attempt, run.reason) == (2, "SILENT")


async def test_a_program_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    async with Service(tmp_path, stop_grace_s=0.5) as service:
        blobs = open_store(str(service.store))
        await place_base(blobs)
        await place_version(blobs)
        run = await service.create(labels={"step-s": "30", "on-term": "ignore"})
        await service.until(run.name, "RUNNING")
        pid = program_pid(run.name, 1)
        await service.trainer.CancelRun(trainer_pb2.CancelRunRequest(name=run.name))
        await service.until(run.name, "CANCELLED")
        assert not Path(f"/proc/{pid}").exists()


async def test_runs_wait_in_order_and_know_their_place(service: Service) -> None:
    labels = ({"step-s": "0.2"}, {}, {})
    runs = [await service.create(labels=labels[n], steps=30, output_model_id=f"m{n}") for n in range(3)]
    await service.until(runs[0].name, "RUNNING")
    async with asyncio.timeout(20):
        while [(await service.get(run.name)).queue_position for run in runs] != [0, 1, 2]:
            await asyncio.sleep(0.05)
    wanted = {'marsam_queue_depth{queue="runs"} 2.0', 'marsam_jobs{kind="runs",state="RUNNING"} 1.0'}
    async with asyncio.timeout(20):
        while not wanted <= set((await asyncio.to_thread(scraped, service)).splitlines()):
            await asyncio.sleep(0.1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.create(output_model_id="m2")
    assert error_of(caught.value).reason == "MODEL_ID_RESERVED"
    cancelled = (await service.trainer.CancelRun(trainer_pb2.CancelRunRequest(name=runs[1].name))).run
    assert state(cancelled) == "CANCELLED"
    assert cancelled.attempt == 0
    await service.until(runs[2].name, "SUCCEEDED")
    async with asyncio.timeout(60):
        while 'marsam_jobs{kind="runs",state="SUCCEEDED"} 2.0' not in await asyncio.to_thread(scraped, service):
            await asyncio.sleep(0.5)
    ended = [(await service.get(runs[n].name)).update_time.ToNanoseconds() for n in (0, 2)]
    assert ended == sorted(ended)


async def test_a_run_outlives_a_killed_service_and_is_adopted(service: Service) -> None:
    run = await service.create(labels={"step-s": "0.1"}, steps=25)
    await service.until(run.name, "RUNNING")
    pid = program_pid(run.name, 1)
    await service.stop(signal.SIGKILL)
    assert Path(f"/proc/{pid}").exists()
    await service.start()
    assert program_pid(run.name, 1) == pid
    done = await service.until(run.name, "SUCCEEDED", "FAILED")
    assert (state(done), done.attempt) == ("SUCCEEDED", 1)


async def test_what_died_while_nobody_looked_is_found_out_and_tried_again(service: Service) -> None:
    run = await service.create(labels={"step-s": "0.1"}, steps=25)
    await service.until(run.name, "RUNNING")
    pid = program_pid(run.name, 1)
    await service.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    await service.start()
    done = await service.until(run.name, "SUCCEEDED", "FAILED")
    assert (state(done), done.attempt) == ("SUCCEEDED", 2)
    assert "SIGKILL" in next(entry.message for entry in done.history if entry.reason == "RETRY")


async def test_a_stopped_service_stops_its_runs_and_the_next_goes_on(service: Service) -> None:
    run = await service.create(labels={"step-s": "0.1"}, steps=25)
    await service.until(run.name, "RUNNING")
    while (await service.get(run.name)).progress.step < 3:
        await asyncio.sleep(0.05)
    pid = program_pid(run.name, 1)
    assert await service.stop() == 0
    assert not Path(f"/proc/{pid}").exists()
    await service.start()
    done = await service.until(run.name, "SUCCEEDED", "FAILED")
    assert (state(done), done.attempt) == ("SUCCEEDED", 2)
    assert "stopped after a checkpoint" in next(entry.message for entry in done.history if entry.reason == "RETRY")


async def test_an_attempt_that_was_replaced_changes_nothing_any_more(service: Service) -> None:
    """Somebody else, who took the run over, has opened attempt 2 while attempt 1 still lives."""
    run = await service.create(labels={"step-s": "0.1"}, steps=40)
    await service.until(run.name, "RUNNING")
    pid = program_pid(run.name, 1)
    await service.stop(signal.SIGKILL)
    jobs, run_id = jobs_of(service), run.name.split("/")[-1]
    head = await jobs.append(run_id, await jobs.head(run_id), State.PENDING, reason="OWNER_LOST")
    await service.start()
    second = await service.until(run.name, "STARTING", "RUNNING", attempt=2)
    assert second.attempt == head.attempt + 1
    async with asyncio.timeout(20):
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            await asyncio.sleep(0.05)
    done = await service.until(run.name, "SUCCEEDED", "FAILED")
    assert (state(done), done.attempt) == ("SUCCEEDED", 2)
    assert [entry.attempt for entry in done.history] == [0, 1, 1, 1, 2, 2, 2]


async def test_lists_are_paged_filtered_and_newest_first(service: Service) -> None:
    made = [
        await service.create(steps=1, output_model_id=f"m{n}", labels={"team": "art" if n % 2 else "ops"})
        for n in range(5)
    ]
    for run in made:
        await service.until(run.name, "SUCCEEDED")
    names = [run.name for run in reversed(made)]

    async def page(size: int, token: str = "", filter_: str = "") -> trainer_pb2.ListRunsResponse:
        return await service.trainer.ListRuns(
            trainer_pb2.ListRunsRequest(parent=PARENT, page_size=size, page_token=token, filter=filter_)
        )

    first = await page(2)
    second = await page(2, first.next_page_token)
    third = await page(2, second.next_page_token)
    assert [run.name for got in (first, second, third) for run in got.runs] == names
    assert third.next_page_token == ""
    art = await page(0, filter_="label.team=art AND state=SUCCEEDED AND family=sd1 AND method=lora")
    assert [run.name for run in art.runs] == [names[1], names[3]]
    assert list((await page(0, filter_="state=FAILED")).runs) == []
    for token, filter_, reason in (
        (first.next_page_token, "state=FAILED", "PAGE_TOKEN"),
        ("bm9uc2Vuc2U=", "", "PAGE_TOKEN"),
        ("", "colour=red", "FILTER_MALFORMED"),
        ("", "state=DONE", "UNKNOWN_STATE"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await page(2, token, filter_)
        assert error_of(caught.value).reason == reason
