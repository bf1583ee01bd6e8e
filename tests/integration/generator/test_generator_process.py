"""The generator as a process: ready line, metrics, drain, refusals."""

import asyncio
import json
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc.aio
import pytest
from marsam_generator.service import SERVICE

from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.rpc.wire import channel
from tests.integration.generator.support import generate, page_of, request, start_process


@pytest.mark.slow
async def test_a_process_serves_measures_and_drains(store: str, tmp_path: Path) -> None:
    process = await start_process(MARSAM_STORE=store, MARSAM_CACHE=str(tmp_path))
    assert process.stdout is not None
    ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    async with channel(ready["grpc"]) as opened:
        stub = generator_pb2_grpc.GeneratorServiceStub(opened)
        told = await stub.ListCapabilities(generator_pb2.ListCapabilitiesRequest(), timeout=20)
        assert "lanes 1" in told.fingerprint
        answer = await generate(stub, request(adapters={"a": 0.5}))
        assert len(answer.images) == 1
    page = await page_of(ready["http"])
    for series in (
        'marsam_generation_images_total{base="projects/default/models/base"} 1.0',
        'marsam_adapters_loaded{base="projects/default/models/base"} 1.0',
        'marsam_device_memory_bytes{device="cpu",kind="used"}',
        "marsam_generation_tick_rows_count",
        'marsam_queue_depth{queue="pictures"} 0.0',
        "marsam_generation_images_per_second",
    ):
        assert series in page
    process.send_signal(signal.SIGTERM)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    # Every line of the log is JSON: no library prints over it.
    events = [json.loads(line)["event"] for line in errors.decode().splitlines()]
    assert {"service.ready", "model.loaded", "rpc", "service.stopped"} <= set(events)
    assert not list(tmp_path.glob("trees-*"))


@pytest.mark.slow
async def test_a_drain_ends_what_can_be_ended_in_time_and_tells_the_rest(store: str, tmp_path: Path) -> None:
    process = await start_process(MARSAM_STORE=store, MARSAM_CACHE=str(tmp_path), MARSAM_GRACE_SECONDS="6")
    assert process.stdout is not None
    ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    async with channel(ready["grpc"]) as opened:
        stub = generator_pb2_grpc.GeneratorServiceStub(opened)
        await generate(stub, request())  # the base is loaded
        # Three of them, so that no machine is so fast that it ends one of them within the grace.
        asked = request(steps=250, count=16, width=32, height=32)
        long, *_others = [stub.Generate(asked, timeout=120) for _ in range(3)]
        async for message in long:
            if message.HasField("progress") and message.progress.step:
                break
        short = asyncio.create_task(generate(stub, request(steps=8)))
        while f'marsam_rpc_in_flight{{method="/{SERVICE}/Generate"}} 4.0' not in await page_of(ready["http"]):
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        health = await asyncio.create_task(asyncio.to_thread(_ready, ready["http"]))
        assert health == 503
        assert len((await asyncio.wait_for(short, 30)).images) == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in long:
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0


def _ready(http: str) -> int:
    """What the readiness probe is answered once the signal has arrived."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{http}/readyz", timeout=20) as answer:
                status = int(answer.status)
        except urllib.error.HTTPError as error:
            status = error.code
        if status != 200:
            return status
        time.sleep(0.02)
    return 200


async def test_wrong_settings_are_refused_with_their_name(store: str, tmp_path: Path) -> None:
    process = await start_process(MARSAM_STORE=store, MARSAM_CACHE=str(tmp_path), MARSAM_PRECISION="fp17")
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    line = json.loads(errors)
    assert (process.returncode, line["setting"]) == (64, "precision")
