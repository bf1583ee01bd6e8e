"""Drawings that outlive their calls: found again by request id and by name, here, elsewhere, and after a death."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from marsam_generator import pulses

from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.core.errors import Cancelled, Deadline, MarsamError, Missing, Precondition, Unavailable
from marsam.rpc.wire import channel, error_of
from marsam.store import keys
from marsam.store.blobs import walk
from tests.integration.generator.support import Served, generate, model, request, serving, start_process

RUNNING = generator_pb2.GENERATION_STATE_RUNNING
SUCCEEDED = generator_pb2.GENERATION_STATE_SUCCEEDED
FAILED = generator_pb2.GENERATION_STATE_FAILED
CANCELLED = generator_pb2.GENERATION_STATE_CANCELLED


async def begun(stub: Any, asked: generator_pb2.GenerateRequest, *, steps: int = 1) -> tuple[Any, str]:
    """A call that has taken some steps, and its generation's name."""
    call, name = stub.Generate(asked, timeout=60), ""
    while True:
        message = await call.read()
        if message.HasField("accepted"):
            name = message.accepted.name
        if message.HasField("progress") and message.progress.step >= steps:
            return call, name


async def found(stub: Any, name: str) -> generator_pb2.Generation:
    return (await stub.GetGeneration(generator_pb2.GetGenerationRequest(name=name), timeout=20)).generation


async def settled(stub: Any, name: str) -> generator_pb2.Generation:
    async with asyncio.timeout(30):
        while (told := await found(stub, name)).state == RUNNING:
            await asyncio.sleep(0.02)
    return told


async def read(stub: Any, name: str) -> bytes:
    parts = stub.ReadGeneration(generator_pb2.ReadGenerationRequest(name=name), timeout=20)
    return b"".join([part.chunk async for part in parts if part.HasField("chunk")])


async def refusal(call: Any) -> MarsamError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value)


async def left_behind(served: Served) -> list[str]:
    """What signs of life are in the store."""
    return [key async for key in walk(served.blobs, keys.drawings("default"))]


async def test_it_goes_on_when_the_call_is_lost(served: Served) -> None:
    asked = request(steps=60, detach=True, request_id="lost")
    call, name = await begun(served.stub, asked)
    call.cancel()
    running = await found(served.stub, name)
    assert running.state == RUNNING and 0 < running.progress.step < running.progress.steps == 60
    assert (await refusal(read(served.stub, name))).reason == "GENERATION_NOT_FOUND"
    told = await settled(served.stub, name)
    assert (told.state, told.error_reason, len(told.images)) == (SUCCEEDED, "", 1)
    picture = await read(served.stub, name)
    again = await generate(served.stub, asked)
    assert (again.accepted.name, again.images[0][1]) == (name, picture)
    assert (await generate(served.stub, request(steps=60))).images[0][1] == picture
    assert await left_behind(served) == []


async def test_the_same_request_id_joins_what_is_being_drawn(served: Served) -> None:
    await generate(served.stub, request())
    before = served.meter.value("marsam_generation_steps_total", base=model("base")) or 0.0
    asked = request(steps=60, guidance=1.0, request_id="joined")
    first, name = await begun(served.stub, asked, steps=2)
    joined = asyncio.create_task(generate(served.stub, asked))
    other, _ = await begun(served.stub, asked, steps=5)
    first.cancel()
    other.cancel()
    answer = await joined
    assert answer.accepted.name == name and len(answer.images) == 1
    steps = [step for step, _ in answer.progress]
    assert steps == sorted(steps) and steps[0] >= 2 and steps[-1] == 60
    assert (served.meter.value("marsam_generation_steps_total", base=model("base")) or 0.0) - before == 60


async def test_when_the_last_leaves_what_is_not_detached_ends_and_says_so(served: Served) -> None:
    asked = request(steps=250, request_id="left")
    call, name = await begun(served.stub, asked)
    call.cancel()
    told = await settled(served.stub, name)
    assert (told.state, told.error_reason) == (CANCELLED, "GENERATION_ABANDONED")
    assert told.request.steps == 250 and list(told.model_digests) == [model("base")]
    error = await refusal(read(served.stub, name))
    assert isinstance(error, Precondition) and error.reason == "GENERATION_WITHOUT_PICTURES"
    short = await served.stub.ListGenerations(
        generator_pb2.ListGenerationsRequest(parent=asked.parent, page_size=1), timeout=20
    )
    assert (short.generations[0].name, short.generations[0].state) == (name, CANCELLED)
    # The same request again is made after all, under the same name.
    _, again = await begun(served.stub, asked)
    assert again == name and (await found(served.stub, name)).state == RUNNING


@pytest.mark.slow
async def test_asked_again_while_it_is_being_given_up_it_is_made(served: Served) -> None:
    asked = request(steps=30, request_id="given up")
    for _ in range(5):
        call, name = await begun(served.stub, asked)
        call.cancel()
        answer = await generate(served.stub, asked)
        assert answer.accepted.name == name and len(answer.images) == 1
        asked.request_id += "."


@pytest.mark.slow
async def test_a_deadline_of_the_call_does_not_end_what_is_detached(served: Served) -> None:
    await generate(served.stub, request())
    asked = request(steps=200, detach=True, request_id="late")
    error = await refusal(generate(served.stub, asked, timeout_s=0.3))
    assert isinstance(error, Deadline)
    assert len((await generate(served.stub, asked)).images) == 1


@pytest.fixture
async def two(store: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Served, Served]]:
    monkeypatch.setattr(pulses, "BEAT_S", 0.1)
    async with serving(store, cache) as one, serving(store, cache) as other:
        yield one, other


@pytest.mark.slow
async def test_another_replica_says_who_draws_and_can_end_it(two: tuple[Served, Served]) -> None:
    here, there = two
    asked = request(steps=250, count=4, detach=True, request_id="elsewhere")
    call, name = await begun(here.stub, asked, steps=2)
    call.cancel()
    async with asyncio.timeout(20):
        while not await left_behind(here):
            await asyncio.sleep(0.02)
    error = await refusal(generate(there.stub, asked))
    assert isinstance(error, Unavailable) and error.reason == "GENERATION_IN_PROGRESS"
    assert "another replica" in error.message and error.retry_after_s
    told = await found(there.stub, name)
    assert (told.state, told.progress.steps, told.request.steps) == (RUNNING, 1000, 250)
    await there.stub.CancelGeneration(generator_pb2.CancelGenerationRequest(name=name), timeout=20)
    told = await settled(there.stub, name)
    assert (told.state, told.error_reason) == (CANCELLED, "GENERATION_CANCELLED")
    assert here.meter.value("marsam_queue_depth", queue="pictures") == 0
    async with asyncio.timeout(20):
        while await left_behind(here):  # its sign of life goes after its record came
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_call_is_told_when_another_replica_ends_it(two: tuple[Served, Served]) -> None:
    here, there = two
    call, name = await begun(here.stub, request(steps=250, count=4), steps=2)
    async with asyncio.timeout(20):
        while not await left_behind(here):
            await asyncio.sleep(0.02)
    await there.stub.CancelGeneration(generator_pb2.CancelGenerationRequest(name=name), timeout=20)

    async def rest() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    error = await refusal(rest())
    assert isinstance(error, Cancelled) and error.reason == "GENERATION_CANCELLED"


@pytest.mark.slow
async def test_an_old_mark_does_not_end_what_is_made_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulses, "BEAT_S", 0.05)
    monkeypatch.setattr(pulses, "BEFORE_S", 0.0)
    asked = request(steps=60, detach=True, request_id="marked")
    call, name = await begun(served.stub, asked)
    await served.stub.CancelGeneration(generator_pb2.CancelGenerationRequest(name=name), timeout=20)
    assert (await settled(served.stub, name)).state == CANCELLED
    call.cancel()
    async with asyncio.timeout(20):
        while await left_behind(served):
            await asyncio.sleep(0.02)
    # As left by somebody who ended it when its replica was gone.
    await served.blobs.create(keys.cancel("default", name.rsplit("/", 1)[1]), b"{}")
    await asyncio.sleep(0.2)
    assert len((await generate(served.stub, asked)).images) == 1
    assert await left_behind(served) == []


async def test_nobody_ends_what_is_not_there(served: Served) -> None:
    asked = generator_pb2.CancelGenerationRequest(name=request().parent + "/generations/01kaxxxxxxxxxxxxxxxxxxxxxx")
    assert isinstance(await refusal(served.stub.CancelGeneration(asked, timeout=20)), Missing)


@pytest.mark.slow
async def test_what_a_killed_replica_drew_is_drawn_again_with_its_seed(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = generator_pb2.GenerateRequest(
        parent=request().parent, model=model("base"), prompt="a chef", steps=250, count=16, detach=True,
        request_id="killed",
    )  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = await start_process(log=log, MARSAM_STORE=store, MARSAM_CACHE=str(tmp_path / "cache"))
    assert process.stdout is not None
    ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 120))
    async with channel(ready["grpc"]) as opened:
        stub = generator_pb2_grpc.GeneratorServiceStub(opened)
        _, name = await begun(stub, asked)
        seed = (await found(stub, name)).request.seed
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with serving(store, tmp_path / "cache", max_steps=250) as served:
        assert (await found(served.stub, name)).state == RUNNING
        monkeypatch.setattr(pulses, "LOST_S", 0.0)
        lost = await found(served.stub, name)
        assert (lost.state, lost.error_reason) == (FAILED, "GENERATION_LOST")
        call, again = await begun(served.stub, asked)
        assert again == name and (await found(served.stub, name)).request.seed == seed
        await served.stub.CancelGeneration(generator_pb2.CancelGenerationRequest(name=name), timeout=20)
        assert (await settled(served.stub, name)).state == CANCELLED
        assert await left_behind(served) == []
        call.cancel()


@pytest.mark.slow
async def test_a_service_that_ends_waits_for_what_is_detached(store: str, cache: Path) -> None:
    async with serving(store, cache, grace_seconds=20.0) as served:
        call, name = await begun(served.stub, request(steps=60, detach=True))
        call.cancel()
    async with serving(store, cache) as served:
        assert (await found(served.stub, name)).state == SUCCEEDED


@pytest.mark.slow
async def test_a_service_that_cannot_wait_says_so(store: str, cache: Path) -> None:
    asked = request(steps=250, count=16, detach=True, request_id="ended")
    async with serving(store, cache, grace_seconds=0.1) as served:
        call, name = await begun(served.stub, asked)
        call.cancel()
    async with serving(store, cache) as served:
        told = await found(served.stub, name)
        assert (told.state, told.error_reason) == (FAILED, "SHUTTING_DOWN")
        assert await left_behind(served) == []
        call, again = await begun(served.stub, asked)
        assert again == name
        await served.stub.CancelGeneration(generator_pb2.CancelGenerationRequest(name=name), timeout=20)
