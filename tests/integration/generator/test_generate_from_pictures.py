"""Uploaded pictures, and pictures drawn from them, through the service."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from marsam_generator import images
from marsam_generator.images import UPLOADS_AT_ONCE
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from marsam.api.generator.v1 import generator_pb2
from marsam.core.errors import Invalid, MarsamError, Missing
from marsam.core.names import parse
from marsam.rpc.wire import error_of
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.store.open import open_store
from marsam.upkeep.graph import Graph
from tests.contract.families.bases import BUILDERS
from tests.integration.generator.support import PROJECT, Answer, Served, generate, model, publish, request, serving

pytestmark = pytest.mark.slow
SIDE = 16


def _colours(width: int = SIDE, height: int = SIDE) -> Image.Image:
    across, down = np.arange(width) * 200 // width, np.arange(height)[:, None] * 200 // height
    bands = [across + 0 * down, down + 0 * across, (across + down) // 2 + 20]
    return Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8))


def _file(image: Image.Image, format: str = "PNG", **more: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format=format, **more)
    return out.getvalue()


async def _messages(data: bytes, size: int | None = None) -> AsyncIterator[generator_pb2.UploadImageRequest]:
    header = generator_pb2.UploadImageHeader(parent=PROJECT, size_bytes=len(data) if size is None else size)
    yield generator_pb2.UploadImageRequest(header=header)
    for start in range(0, len(data), 1000):
        yield generator_pb2.UploadImageRequest(chunk=data[start : start + 1000])


async def _upload(served: Served, data: bytes, size: int | None = None) -> str:
    answer = await served.stub.UploadImage(_messages(data, size), timeout=60)
    return str(answer.image)


async def _fault(call: Any) -> MarsamError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value)


def _pixels(answer: Answer, place: int = 0) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(answer.images[place][1])).convert("RGB"))


async def test_a_picture_is_kept_upright_opaque_and_without_metadata(served: Served) -> None:
    image = _colours(24, 16)
    plain = await _upload(served, _file(image))
    name = parse(plain, "image")
    assert plain == f"{PROJECT}/images/{name.id}"
    notes = PngInfo()
    notes.add_text("where", "my garden")
    assert await _upload(served, _file(image, pnginfo=notes)) == plain
    # Lying on its side, and saying so.
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = image.transpose(Image.Transpose.ROTATE_90)
    assert await _upload(served, _file(turned, exif=exif)) == plain
    # Transparent where it is black.
    clear = Image.new("RGBA", image.size, (0, 0, 0, 0))
    white = await _upload(served, _file(clear))
    assert white == await _upload(served, _file(Image.new("RGB", image.size, (255, 255, 255))))
    kept = await served.blobs.get(keys.blob("default", f"sha256:{name.id}"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept))), np.asarray(image))
    assert b"garden" not in kept


def _bomb() -> bytes:
    return _file(Image.new("1", (12_000, 12_000)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_file(_colours())[:60], "BROKEN"),
        (b"PK\x03\x04" + bytes(64), "NOT_AN_IMAGE"),
        (b"\x80\x04K\x01.", "NOT_AN_IMAGE"),
        (_bomb(), "TOO_MANY_PIXELS"),
        (_file(Image.new("RGB", (400, 20))), "ASPECT_TOO_EXTREME"),
    ],
)
async def test_what_is_no_picture_is_refused_with_the_decoders_verdict(
    served: Served, data: bytes, reason: str
) -> None:
    error = await _fault(_upload(served, data))
    assert isinstance(error, Invalid) and error.reason == reason, error


async def test_an_upload_is_a_header_and_as_many_bytes_as_it_says(served: Served) -> None:
    data = _file(_colours())
    for size in (len(data) - 1, len(data) + 1):
        assert (await _fault(_upload(served, data, size))).reason == "SIZE_MISMATCH"
    assert isinstance(await _fault(_upload(served, data, 64 * 2**20 + 1)), Invalid)

    async def headless() -> AsyncIterator[generator_pb2.UploadImageRequest]:
        yield generator_pb2.UploadImageRequest(chunk=data)

    async def twice() -> AsyncIterator[generator_pb2.UploadImageRequest]:
        async for message in _messages(data):
            yield message
        yield generator_pb2.UploadImageRequest(header=generator_pb2.UploadImageHeader(parent=PROJECT, size_bytes=1))

    for messages in (headless(), twice()):
        assert (await _fault(served.stub.UploadImage(messages, timeout=20))).reason == "STREAM_ORDER"


async def test_an_upload_that_stops_halfway_gives_up_its_place(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ARRIVAL_S", 0.3)
    data = _file(_colours())
    stuck = asyncio.Event()

    async def half() -> AsyncIterator[generator_pb2.UploadImageRequest]:
        async for message in _messages(data):
            yield message
            if message.HasField("header"):
                await stuck.wait()

    faults = await asyncio.gather(
        *(_fault(served.stub.UploadImage(half(), timeout=60)) for _ in range(UPLOADS_AT_ONCE))
    )
    assert {fault.reason for fault in faults} == {"UPLOAD_TOO_SLOW"} and "0 of" in faults[0].message
    monkeypatch.undo()
    assert await _upload(served, data)


async def test_uploads_that_break_off_leave_room_and_too_many_at_once_are_told_to_come_again(served: Served) -> None:
    data = _file(_colours())
    gate = asyncio.Event()

    async def stalled() -> AsyncIterator[generator_pb2.UploadImageRequest]:
        async for message in _messages(data):
            yield message
            await gate.wait()

    for _ in range(2):
        calls = [served.stub.UploadImage(stalled(), timeout=60) for _ in range(UPLOADS_AT_ONCE + 1)]
        waiting = [asyncio.ensure_future(_refusal(call)) for call in calls]
        (refused,), others = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        error = refused.result()
        assert error is not None
        assert (error.reason, error.retry_after_s) == ("UPLOADS_BUSY", 1.0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        async with asyncio.timeout(30):
            while await _refusal(_upload(served, data)) is not None:
                await asyncio.sleep(0.02)


async def _refusal(call: Any) -> MarsamError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error_of(error)
    return None


async def test_a_picture_is_drawn_from_another_and_again_the_same(served: Served) -> None:
    image = await _upload(served, _file(_colours()))
    first = await generate(served.stub, request(prompt="a chef", init_image=image, steps=10, count=2))
    resolved = first.accepted.resolved
    assert (resolved.strength, resolved.width, resolved.height) == (0.6, SIDE, SIDE)
    assert not first.accepted.warnings
    # Six of ten steps, for each of two.
    assert first.progress[-1] == (12, 12)
    again = await generate(served.stub, resolved)
    assert [data for _, data in again.images] == [data for _, data in first.images]
    assert not np.array_equal(_pixels(first, 0), _pixels(first, 1))
    alone = await generate(served.stub, request(prompt="a chef", init_image=image, steps=10, seed=8))
    assert int(np.abs(_pixels(alone).astype(int) - _pixels(first, 1)).max()) <= 1
    # All of the strength is none of the picture.
    whole = await generate(served.stub, request(init_image=image, strength=1.0))
    plain = await generate(served.stub, request())
    assert np.array_equal(_pixels(whole), _pixels(plain))


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "euler", "euler_a"])
async def test_what_a_mask_keeps_comes_back_to_the_bit(served: Served, scheduler: str) -> None:
    picture = _colours()
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[3:9, 2:11] = 255
    asked = request(
        init_image=await _upload(served, _file(picture)),
        mask_image=await _upload(served, _file(Image.fromarray(mask))),
        scheduler=scheduler,
        steps=4,
    )
    answer = await generate(served.stub, asked)
    assert answer.accepted.resolved.strength == 1.0
    drawn, kept = _pixels(answer), mask == 0
    assert np.array_equal(drawn[kept], np.asarray(picture)[kept])
    assert not np.array_equal(drawn[~kept], np.asarray(picture)[~kept])


async def test_another_size_is_brought_to_what_is_drawn_and_told(served: Served) -> None:
    image = await _upload(served, _file(_colours(64, 40), "JPEG", quality=95))
    square = await generate(served.stub, request(prompt="a chef", init_image=image, width=16, height=16, strength=0.4))
    assert square.accepted.warnings == [
        "init_image has 64×40 pixels: it was scaled to 16×16, and 38% of it cut away around the centre"
    ]
    assert (square.images[0][0].width, square.images[0][0].height) == (16, 16)
    # Where no size is asked, the shape stays as far as the base can.
    wide = await generate(served.stub, request(init_image=image))
    header = wide.images[0][0]
    assert header.width >= header.height
    assert header.width * header.height <= SIDE**2


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"strength": 0.5}, "START_MISSING", "strength"),
        ({"mask_image": "MASK"}, "START_MISSING", "mask_image"),
        ({"init_image": "PICTURE", "strength": 0.0}, "STRENGTH_OUT_OF_RANGE", "strength"),
        ({"init_image": "PICTURE", "strength": 1.5}, "STRENGTH_OUT_OF_RANGE", "strength"),
        ({"init_image": "PICTURE", "strength": float("nan")}, "STRENGTH_OUT_OF_RANGE", "strength"),
        ({"init_image": "PICTURE", "mask_image": "LARGE"}, "MASK_SIZE", "mask_image"),
        ({"init_image": "PICTURE", "mask_image": "BLACK"}, "MASK_EMPTY", "mask_image"),
        ({"init_image": "somewhere/x.png"}, "NAME_MALFORMED", "init_image"),
        ({"init_image": f"projects/other/images/{'0' * 64}"}, "IMAGE_OF_ANOTHER_PROJECT", "init_image"),
        ({"init_image": f"{PROJECT}/images/{'0' * 64}"}, "IMAGE_NOT_FOUND", "init_image"),
        ({"init_image": "WEIGHTS"}, "NOT_AN_IMAGE", "init_image"),
    ],
)
async def test_what_cannot_be_started_from(served: Served, fields: dict[str, Any], reason: str, field: str) -> None:
    names = {
        "PICTURE": _colours(),
        "MASK": Image.new("L", (SIDE, SIDE), 255),
        "BLACK": Image.new("L", (SIDE, SIDE)),
        "LARGE": Image.new("L", (SIDE, 2 * SIDE), 255),
    }
    uploaded = {name: await _upload(served, _file(image)) for name, image in names.items() if name in fields.values()}
    if "WEIGHTS" in fields.values():
        uploaded["WEIGHTS"] = f"{PROJECT}/images/{await _weights(served.blobs)}"
    asked = request(**{name: uploaded.get(value, value) for name, value in fields.items()})
    error = await _fault(generate(served.stub, asked))
    assert (error.reason, error.field) == (reason, field), error
    assert isinstance(error, Missing if reason == "IMAGE_NOT_FOUND" else Invalid)


async def _weights(blobs: Blobs) -> str:
    """The digits of a blob of the project that is no picture."""
    from marsam.catalog.repository import load_model

    made = await load_model(blobs, f"{PROJECT}/models/base")
    return next(file.digest for file in made.files if file.path.endswith(".safetensors")).removeprefix("sha256:")


async def test_a_base_that_is_told_its_guidance_draws_from_pictures_and_reads_no_negative_prompt(
    tmp_path: Path,
) -> None:
    store = str(tmp_path / "store")
    await publish(open_store(store), "flux", "base", BUILDERS["flux"](tmp_path / "flux"), family="flux")
    async with serving(store, tmp_path / "cache") as flux:
        picture = _colours(48, 32)
        mask = np.zeros((32, 48), dtype=np.uint8)
        mask[8:, 20:] = 255
        asked = request(
            model=model("flux"),
            negative_prompt="grey",
            init_image=await _upload(flux, _file(picture)),
            mask_image=await _upload(flux, _file(Image.fromarray(mask))),
            width=48,
            height=32,
        )
        answer = await generate(flux.stub, asked)
        assert [text for text in answer.accepted.warnings if "takes guidance as a number" in text]
        kept = mask == 0
        assert np.array_equal(_pixels(answer)[kept], np.asarray(picture)[kept])
        asked.negative_prompt = ""
        plain = await generate(flux.stub, asked)
        assert not [text for text in plain.accepted.warnings if "negative" in text]
        assert np.array_equal(_pixels(plain), _pixels(answer))


async def test_a_negative_prompt_without_guidance_is_told(served: Served) -> None:
    def told(answer: Answer) -> list[str]:
        return [text for text in answer.accepted.warnings if "no effect" in text]

    assert told(await generate(served.stub, request(negative_prompt="grey", guidance=1.0)))
    assert not told(await generate(served.stub, request(negative_prompt="grey", guidance=2.0)))
    assert not told(await generate(served.stub, request(guidance=1.0)))


async def test_what_a_generation_started_from_is_held_and_what_none_used_is_not(served: Served) -> None:
    used, unused = [await _upload(served, _file(_colours(40, side))) for side in (24, 25)]
    mask = await _upload(served, _file(Image.new("L", (40, 24), 200)))
    await generate(served.stub, request(init_image=used, mask_image=mask))
    graph = Graph(served.blobs, "default")
    await graph.read()
    assert [graph.holds(f"sha256:{parse(name, 'image').id}") for name in (used, mask, unused)] == [True, True, False]
