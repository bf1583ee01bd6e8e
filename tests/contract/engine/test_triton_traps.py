"""What goes wrong with Triton, and what becomes of it here: each line of the table in services/generator/README.md."""

import asyncio
import contextlib
import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import grpc
import numpy
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from marsam_generator.engine.engine import Progress
from marsam_generator.engines.triton import TritonEngine

from marsam.core.errors import Unavailable
from marsam.rpc.wire import error_of
from tests.contract.engine.conftest import remote
from tests.contract.engine.test_engine_behaviour import Models, commission, drawn
from tests.contract.engine.triton_server import MODEL, MODELS, Triton, serving, site, started
from tests.integration.generator.support import generate, request
from tests.integration.generator.support import serving as generator

pytestmark = pytest.mark.slow


async def until(condition, *, seconds: float) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.1)


async def test_a_dead_engine_is_known_within_five_seconds_and_a_new_one_found(
    store: str, tmp_path: Path, models: Models
) -> None:
    first = tmp_path / "first"
    settings = {"MARSAM_THREADS": "1"}
    with serving(first, store=store, **settings) as server:
        async with generator(store, tmp_path / "cache", engine="triton", triton_url=server.grpc) as front:
            checker = health_pb2_grpc.HealthStub(front.channel)

            async def fit() -> bool:
                answer = await checker.Check(health_pb2.HealthCheckRequest(), timeout=5)
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            async def unfit() -> bool:
                return not await fit()

            await until(fit, seconds=10)
            await generate(front.stub, request())
            call = front.stub.Generate(request(steps=250, count=16), timeout=60)
            async for message in call:
                if message.HasField("progress") and message.progress.step:
                    break
            os.kill(server.stub(), signal.SIGKILL)
            died = time.monotonic()
            await until(unfit, seconds=5)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with asyncio.timeout(5):
                    async for _ in call:
                        pass
            assert time.monotonic() - died < 5
            error = error_of(caught.value)
            assert isinstance(error, Unavailable) and error.reason == "ENGINE_LOST" and error.retry_after_s
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await generate(front.stub, request(), timeout_s=10)
            # Refused by the server that lost its model, or silent where that hangs.
            assert error_of(caught.value).reason in ("ENGINE_LOST", "ENGINE_SILENT")
            # The page of the engine's own process tells the cluster what Triton does not.
            with urllib.request.urlopen(f"http://{server.http}/v2/health/live", timeout=5) as answer:
                assert answer.status == 200
            with pytest.raises(OSError):
                urllib.request.urlopen(f"http://{server.page}/healthz", timeout=5)
            server.process.kill()
            server.process.wait()
            with serving(tmp_path / "second", store=store, like=server, **settings):
                await until(fit, seconds=10)
                assert (await generate(front.stub, request())).images


async def test_an_engine_that_hangs_refuses_who_comes_in_time(tmp_path: Path) -> None:
    def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        """Takes the call and never says a word, as a server that stands still."""

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    engine = TritonEngine(address=f"127.0.0.1:{server.sockets[0].getsockname()[1]}", model=MODEL)
    try:
        with pytest.raises(Unavailable) as caught:
            async with asyncio.timeout(20):
                await engine.describe()
        assert caught.value.reason in ("ENGINE_SILENT", "ENGINE_LOST") and caught.value.retry_after_s
    finally:
        await engine.close()
        server.close()


async def test_a_service_without_a_gpu_and_without_its_triton_starts_and_says_so(store: str, tmp_path: Path) -> None:
    async with generator(store, tmp_path / "cache", engine="triton", triton_url="127.0.0.1:9", device="cuda") as front:
        checker = health_pb2_grpc.HealthStub(front.channel)
        answer = await checker.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(front.stub, request(), timeout_s=10)
        assert error_of(caught.value).reason == "ENGINE_LOST"


def failure(server: Triton) -> str:
    """The log of a server once it has given the model up."""
    until = time.monotonic() + 200
    while "failed to load" not in (text := server.log.read_text(errors="replace")):
        assert time.monotonic() < until, text
        time.sleep(0.1)
    return text


def test_packages_are_named_by_marsam_site_because_pythonpath_is_not_read(store: str, tmp_path: Path) -> None:
    with started(tmp_path, PYTHONPATH=site(), MARSAM_STORE=store, MARSAM_CACHE=str(tmp_path / "cache")) as server:
        assert "No module named" in failure(server)
        assert not server.ready()


def test_settings_in_the_models_configuration_win_and_wrong_ones_refuse_the_model(store: str, tmp_path: Path) -> None:
    config = (MODELS / MODEL / "config.pbtxt").read_text()
    (tmp_path / "own" / MODEL / "1").mkdir(parents=True)
    (tmp_path / "own" / MODEL / "1" / "model.py").symlink_to(MODELS / MODEL / "1" / "model.py")
    wrong = 'parameters { key: "MARSAM_DEVICE" value: { string_value: "abacus" } }\n'
    (tmp_path / "own" / MODEL / "config.pbtxt").write_text(config + wrong)
    environment = {"MARSAM_SITE": site(), "MARSAM_STORE": store, "MARSAM_CACHE": str(tmp_path / "cache")}
    with started(tmp_path / "server", models=tmp_path / "own", MARSAM_DEVICE="cpu", **environment) as server:
        assert "device must be auto, cpu or cuda[:N], got 'abacus'" in failure(server)


async def test_text_passes_a_stub_that_knows_numpy_1_only(triton: Triton, models: Models) -> None:
    assert int(numpy.__version__.split(".")[0]) >= 2
    # Under this very numpy the stub would die of the same words in a BYTES tensor.
    async with remote(triton) as there:
        assert await drawn(there.engine, commission(models, prompt="رسم ٌ بالألوان " * 20, steps=1))


async def test_the_log_holds_no_prompt(triton: Triton, models: Models) -> None:
    async with remote(triton) as there:
        await drawn(there.engine, commission(models, prompt="سرّي جدًا unspeakable", steps=1))
    text = triton.log.read_text(errors="replace")
    assert "engine.ready" in text and "model.loaded" in text
    assert "unspeakable" not in text and "سر" not in text and "\\u0633" not in text


def test_triton_batches_nothing(triton: Triton) -> None:
    with urllib.request.urlopen(f"http://{triton.http}/v2/models/{MODEL}/config", timeout=5) as answer:
        config = json.load(answer)
    assert config["max_batch_size"] == 0 and config["model_transaction_policy"]["decoupled"]
    assert "dynamic_batching" not in config and "sequence_batching" not in config
    assert {one["data_type"] for one in (*config["input"], *config["output"])} == {"TYPE_UINT8"}


async def test_shared_memory_does_not_grow(triton: Triton, models: Models) -> None:
    async with remote(triton) as there:

        async def round_trips(count: int) -> int:
            for _ in range(count):
                await drawn(there.engine, commission(models, steps=2, guidance=1.0, width=128, height=128))
            return triton.shared_memory()

        before = await round_trips(10)
        assert before > 0
        assert await round_trips(100) == before


async def test_closing_the_service_leaves_what_others_loaded(triton: Triton, models: Models) -> None:
    async with remote(triton) as there:
        await drawn(there.engine, commission(models, steps=1))
    async with remote(triton) as there:
        assert models["base"].digest in await there.engine.residents()


async def test_a_client_may_be_closed_just_as_the_engine_says_who_it_is(triton: Triton) -> None:
    async with asyncio.timeout(60):
        for hundredths in range(200):
            async with remote(triton):
                await asyncio.sleep(hundredths / 10_000)


async def test_closing_the_client_ends_what_it_draws(triton: Triton, models: Models) -> None:
    engine = TritonEngine(address=triton.grpc, model=MODEL)
    drawing = engine.draw(commission(models, steps=250, count=8))
    async with contextlib.aclosing(drawing) as events:
        async for said in events:
            if isinstance(said, Progress):
                break
        await engine.close()
        with pytest.raises(Unavailable):
            async for _ in events:
                pass
    async with remote(triton) as there:
        for _ in range(100):
            said = (await drawn(there.engine, commission(models, steps=1)))[0]
            if said.ahead == 0:
                break
        assert said.ahead == 0
