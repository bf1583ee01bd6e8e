"""The generator as its callers see it, whoever draws."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from PIL import Image

from marsam.api.generator.v1 import generator_pb2
from marsam.core.errors import Deadline, MarsamError, Missing, Precondition
from marsam.rpc.wire import error_of
from tests.contract.engine.conftest import KINDS, PLACES, TICK_ROWS
from tests.integration.generator.support import Served, generate, model, request, serving

pytestmark = pytest.mark.slow


@pytest.fixture(params=KINDS)
async def served(request: pytest.FixtureRequest, store: str, tmp_path: Path) -> AsyncIterator[Served]:
    if request.param == "local":
        settings = {"tick_rows": TICK_ROWS, "queue_pictures": PLACES}
    else:
        settings = {"engine": "triton", "triton_url": request.getfixturevalue("triton").grpc}
    async with serving(store, tmp_path / "cache", **settings) as generator:
        yield generator


async def refusal(served: Served, asked: generator_pb2.GenerateRequest, *, timeout_s: float = 60.0) -> MarsamError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(served.stub, asked, timeout_s=timeout_s)
    return error_of(caught.value)


async def test_a_picture_of_arabic_words_is_kept_and_repeated(served: Served) -> None:
    asked = request(prompt="عالمة فيزياء", adapters={"a": 0.6}, request_id="arabic")
    answer = await generate(served.stub, asked)
    assert answer.done is not None and answer.done.denoise_seconds > 0 and answer.done.queued_seconds >= 0
    with Image.open(io.BytesIO(answer.images[0][1])) as picture:
        assert picture.size == (16, 16) and "عالمة فيزياء" in picture.text["marsam:request"]
    again = await generate(served.stub, asked)
    assert again.images[0][1] == answer.images[0][1]


async def test_previews_come_before_the_picture(served: Served) -> None:
    asked = request(steps=9)
    asked.preview.every_steps = 3
    kinds = [message.WhichOneof("event") async for message in served.stub.Generate(asked, timeout=60)]
    assert "preview" in kinds and kinds.index("preview") < kinds.index("image")


async def test_an_adapter_that_nobody_knows(served: Served) -> None:
    error = await refusal(served, request(adapters={"nobody": 1.0}))
    assert isinstance(error, Missing) and error.reason == "MODEL_NOT_FOUND"


async def test_an_adapter_of_another_base(served: Served) -> None:
    error = await refusal(served, request(adapters={"alien": 1.0}))
    assert isinstance(error, Precondition) and error.reason == "ADAPTER_OF_ANOTHER_BASE"
    assert model("other") in error.message and model("base") in error.message


async def test_a_deadline(served: Served) -> None:
    await generate(served.stub, request())
    assert isinstance(await refusal(served, request(steps=250, count=16), timeout_s=0.5), Deadline)


async def test_a_caller_who_vanishes_leaves_room(served: Served) -> None:
    await generate(served.stub, request())
    call = served.stub.Generate(request(steps=250, count=16), timeout=60)
    async for message in call:
        if message.HasField("progress") and message.progress.step >= 16:
            break
    call.cancel()
    async with asyncio.timeout(20):
        while True:
            answer = await generate(served.stub, request(steps=1))
            if answer.accepted.queue_position == 0:
                break


async def test_adapters_are_loaded_listed_and_evicted(served: Served) -> None:
    loaded = await served.stub.LoadAdapter(generator_pb2.LoadAdapterRequest(model=model("b"), pin=True), timeout=60)
    assert loaded.adapter.resident and loaded.adapter.pinned and loaded.adapter.size_bytes > 0
    await served.stub.EvictAdapter(generator_pb2.EvictAdapterRequest(model=model("b")), timeout=20)
    listed = await served.stub.ListAdapters(generator_pb2.ListAdaptersRequest(parent="projects/default"), timeout=20)
    assert not {state.model: state for state in listed.adapters}[model("b")].resident


async def test_what_it_can_do_is_what_the_engine_can(served: Served) -> None:
    found = await served.stub.ListCapabilities(generator_pb2.ListCapabilitiesRequest(), timeout=20)
    assert (found.device, found.precision) == ("cpu", "fp32") and "torch" in found.fingerprint
    assert found.engine in KINDS
