"""Watching a run: a snapshot, then everything once, then the end; a token goes on from where it was given."""

import os
import signal

import grpc
import pytest

from marsam.api.trainer.v1 import trainer_pb2
from marsam.client import AsyncMarsam, Endpoints
from marsam.core.errors import Expired, Invalid, Missing, Unavailable
from marsam.rpc.wire import error_of
from tests.integration.trainer.harness import PARENT, Service, state

pytestmark = pytest.mark.slow


def steps_of(messages: list[trainer_pb2.WatchRunResponse]) -> list[int]:
    return [message.progress.step for message in messages if message.WhichOneof("event") == "progress"]


async def test_a_watch_shows_all_and_ends_with_the_run(service: Service) -> None:
    run = await service.create(steps=6, checkpoint_every=3)
    messages = [message async for message in service.watch(run.name)]
    assert messages[0].WhichOneof("event") == "snapshot"
    assert messages[0].snapshot.name == run.name
    assert steps_of(messages) == [1, 2, 3, 4, 5, 6]
    assert [(m.checkpoint.attempt, m.checkpoint.step) for m in messages if m.HasField("checkpoint")] == [(1, 3), (1, 6)]
    assert messages[-1].WhichOneof("event") == "snapshot"
    assert state(messages[-1].snapshot) == "SUCCEEDED"
    assert messages[-1].snapshot.model != ""
    sequences = [m.snapshot.history[-1].sequence for m in messages if m.HasField("snapshot")]
    assert sequences == sorted(sequences)
    # Watched again from the start, a finished run is told whole; from its last token, nothing is left to tell.
    again = [message async for message in service.watch(run.name)]
    assert steps_of(again) == [1, 2, 3, 4, 5, 6]
    assert state(again[0].snapshot) == state(again[-1].snapshot) == "SUCCEEDED"
    async with AsyncMarsam(Endpoints(dataset=service.address, trainer=service.address, generator=service.address)) as m:
        assert steps_of([message async for message in m.runs.watch(run.name)]) == [1, 2, 3, 4, 5, 6]
    assert [message async for message in service.watch(run.name, messages[-1].resume_token)] == []


async def test_every_token_goes_on_without_loss(service: Service) -> None:
    run = await service.create(steps=6, labels={"step-s": "0.05"})
    seen: list[trainer_pb2.WatchRunResponse] = []
    token = ""
    for _ in range(100):
        watch = service.watch(run.name, token)
        async for message in watch:
            if message.resume_token != token or not token:
                seen.append(message)
                token = message.resume_token
            if len(seen) % 3 == 0:
                break
        await watch.aclose()
        if seen and seen[-1].HasField("snapshot") and state(seen[-1].snapshot) == "SUCCEEDED":
            break
    last = [message async for message in service.watch(run.name)]
    assert set(steps_of(last)) == {1, 2, 3, 4, 5, 6}
    assert state(last[-1].snapshot) == "SUCCEEDED"


async def test_a_watch_survives_a_restart_of_the_service_by_its_token(service: Service) -> None:
    run = await service.create(steps=20, labels={"step-s": "0.1"})
    seen: list[trainer_pb2.WatchRunResponse] = []
    token = ""
    with pytest.raises(grpc.aio.AioRpcError):
        async for message in service.watch(run.name):
            seen.append(message)
            token = message.resume_token
            if 3 in steps_of(seen):
                os.kill(service.pid, signal.SIGKILL)
    await service.stop()
    await service.start()
    async for message in service.watch(run.name, token):
        seen.append(message)
    steps = steps_of(seen)
    assert sorted(set(steps)) == list(range(1, 21))
    assert state(seen[-1].snapshot) == "SUCCEEDED"


async def test_a_stopping_service_tells_watchers_to_come_back(service: Service) -> None:
    run = await service.create(steps=50, labels={"step-s": "0.1"})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        stopping = False
        async for _ in service.watch(run.name):
            if not stopping:
                os.kill(service.pid, signal.SIGTERM)
                stopping = True
    error = error_of(caught.value)
    assert isinstance(error, Unavailable)
    assert error.reason == "RECONNECT"


async def test_bad_tokens_and_names(service: Service) -> None:
    run = await service.create(steps=1)
    await service.until(run.name, "SUCCEEDED")
    for name, token, kind in (
        (run.name, "nonsense", Invalid),
        (run.name, "99.1.1", Expired),
        (f"{PARENT}/runs/01jd0000000000000000000000", "", Missing),
        ("projects/default/run/1", "", Invalid),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [message async for message in service.watch(name, token)]
        assert isinstance(error_of(caught.value), kind)
