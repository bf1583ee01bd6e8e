"""Imports over gRPC against a real service: verdicts, resumption, repetition."""

import asyncio
import contextlib
import io
import signal
import urllib.request

import grpc
import numpy as np
import psutil
import pytest
from PIL import Image

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2 as pb
from marsam.core.errors import Exists, Invalid, MarsamError, Missing, Unavailable
from marsam.rpc.wire import error_of
from tests.integration.dataset.harness import DATASET, Running, Start, bring, create, follow, items, parts, send
from tests.integration.dataset.pictures import metadata, saved, scene

pytestmark = pytest.mark.slow


async def refused(call: object) -> MarsamError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return error_of(caught.value)


def metrics_of(running: Running) -> str:
    with urllib.request.urlopen(f"{running.http}/metrics", timeout=10) as response:
        return response.read().decode()


async def pixels(running: Running, name: str) -> np.ndarray:
    chunks = [r.chunk async for r in running.stub.ReadItem(pb.ReadItemRequest(name=name), timeout=30)]
    assert all(len(chunk) <= 256 * 1024 for chunk in chunks)
    return np.asarray(Image.open(io.BytesIO(b"".join(chunks))))


async def test_each_file_gets_its_verdict_and_a_bad_one_stops_nothing(start: Start) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    half = saved(scene(7), "JPEG")
    files = {
        "a.png": saved(scene(1)),
        "a.txt": b"\xef\xbb\xbfa red  circle\non a blue ground\n",
        "a.ar.txt": "دائرة حمراء على أرض زرقاء".encode(),
        "b.jpg": saved(scene(2, 320).crop((0, 0, 320, 160)), "JPEG", exif=exif),
        "c.webp": saved(scene(3), "WEBP"),
        "half.jpg": half[: len(half) // 2],
        "evil.png": b"\x80\x04\x95pickle" + saved(scene(4)),
        "empty.png": b"",
        "../outside.png": saved(scene(5)),
        "metadata.jsonl": metadata(
            [
                {
                    "file_name": "b.jpg",
                    "text": "a green square",
                    "text_ar": "مربع أخضر",
                    "attributes": {"shape": "square", "round": False, "n": 3},
                    "rights": {"license": "CC0-1.0"},
                },
                {"file_name": "c.webp", "captions": [{"language": "en", "text": "a blue field"}], "split": "test"},
                {"file_name": "ghost.png", "text": "not here"},
            ]
        )
        + b"{broken\n",
        "rights.json": b'{"licence": "CC-BY-4.0", "holder": "Mona Said"}',
        "README.md": b"about this folder",
    }
    async with start() as running:
        await create(running)
        done = await bring(running, files)
        assert (done.files_received, done.files_done, done.items_accepted) == (12, 12, 3)
        assert {v.path: v.reason for v in done.refused} == {
            "half.jpg": "BROKEN",
            "evil.png": "NOT_AN_IMAGE",
            "empty.png": "NOT_AN_IMAGE",
            "../outside.png": "PATH_UNSAFE",
            "ghost.png": "FILE_MISSING",
            "metadata.jsonl:4": "METADATA_LINE",
        }
        assert "pickle" in next(v.message for v in done.refused if v.path == "evil.png")
        found = await items(running)
        assert list(found) == ["a.png", "b.jpg", "c.webp"]
        a, b, c = found.values()
        assert [(x.language, x.text) for x in a.captions] == [
            ("ar", "دائرة حمراء على أرض زرقاء"),
            ("en", "a red circle on a blue ground"),
        ]
        assert [(x.language, x.text) for x in b.captions] == [("en", "a green square"), ("ar", "مربع أخضر")]
        assert dict(b.attributes) == {"shape": "square", "round": "false", "n": "3"}
        assert (b.rights.licence, a.rights.licence, a.rights.holder) == ("CC0-1.0", "CC-BY-4.0", "Mona Said")
        assert (c.split, a.split) == ("test", "train")
        # 320 × 160 with orientation 6 stands upright, a quarter turned.
        assert (b.width, b.height) == (160, 320)
        turned = np.rot90(np.asarray(scene(2, 320).crop((0, 0, 320, 160))), -1)
        assert np.abs((await pixels(running, b.name)).astype(int) - turned).mean() < 4
        np.testing.assert_array_equal(await pixels(running, a.name), np.asarray(scene(1)))
        assert [f.reason for f in b.findings] == ["ORIENTED"]
        exposed = await asyncio.to_thread(metrics_of, running)
        assert 'marsam_import_files_total{reason="",verdict="accepted"} 3.0' in exposed


async def test_watching_begins_with_a_snapshot_and_ends_with_the_import(start: Start) -> None:
    async with start() as running:
        await create(running)
        files = {f"{n:03d}.png": saved(scene(n)) for n in range(60)}
        started = await send(running, files)
        updates = await follow(running, started.name)
        done = [u.files_done for u in updates]
        assert done == sorted(done)
        assert (updates[-1].files_done, updates[-1].state) == (60, common_pb2.JOB_STATE_SUCCEEDED)
        assert updates[-1].images_per_second > 0
        # Watching a finished import gives its end at once.
        assert (await follow(running, started.name))[-1] == updates[-1]


@pytest.mark.slow
async def test_an_import_goes_on_after_the_service_was_killed(start: Start) -> None:
    files = {f"{n:03d}.png": saved(scene(n, 700)) for n in range(160)}
    async with start() as running:
        await create(running)
        started = await send(running, files)
        while not await items(running):  # a watch may tell of nothing between the start and the end
            await asyncio.sleep(0.001)
        running.process.send_signal(signal.SIGKILL)
        await running.process.wait()
    async with start() as again:
        halfway = await items(again)
        assert 0 < len(halfway) < 160
        done = (await follow(again, started.name))[-1]
        assert (done.state, done.items_accepted, done.files_done) == (common_pb2.JOB_STATE_SUCCEEDED, 160, 160)
        found = await items(again)
        assert sorted(found) == sorted(files)
        # What the first process stored is the same item still: nothing was imported twice.
        assert {name: item.name for name, item in halfway.items()} == {name: found[name].name for name in halfway}


@pytest.mark.slow
async def test_killed_decoders_cost_nothing(start: Start) -> None:
    files = {f"{n:03d}.png": saved(scene(n, 700)) for n in range(120)}
    async with start() as running:
        await create(running)
        started = await send(running, files)
        service = psutil.Process(running.process.pid)
        killed: set[int] = set()
        # The processes are watched, not the progress: a quick machine tells of few steps, or of the end alone.
        while len(killed) < 2:
            for decoder in service.children():
                await asyncio.sleep(0.3 * len(killed))  # the first dies as it comes up, the second with a picture
                with contextlib.suppress(psutil.NoSuchProcess):
                    decoder.kill()
                    killed.add(decoder.pid)
            await asyncio.sleep(0.001)
        done = (await follow(running, started.name))[-1]
        assert (done.items_accepted, list(done.refused)) == (120, [])


@pytest.mark.slow
async def test_a_stopped_service_finishes_later(start: Start) -> None:
    files = {f"{n:03d}.png": saved(scene(n, 700)) for n in range(160)}
    async with start() as running:
        await create(running)
        started = await send(running, files)

        async def watch() -> None:
            async for _ in running.stub.WatchImport(pb.WatchImportRequest(name=started.name), timeout=60):
                pass

        watching = asyncio.create_task(refused(watch()))
        while not await items(running):
            await asyncio.sleep(0.001)
        running.process.send_signal(signal.SIGTERM)
        error = await watching
        assert isinstance(error, Unavailable)
        assert error.reason == "RECONNECT"
        assert await asyncio.wait_for(running.process.wait(), 30) == 0
    async with start() as again:
        done = (await follow(again, started.name))[-1]
        assert (done.state, done.items_accepted) == (common_pb2.JOB_STATE_SUCCEEDED, 160)


async def test_the_same_request_imports_once_and_the_same_folder_adds_nothing(start: Start) -> None:
    files = {f"{n}.png": saved(scene(n)) for n in range(4)}
    async with start() as running:
        await create(running)
        first = await bring(running, files, request_id="r1")
        assert (await bring(running, files, request_id="r1")).name == first.name
        error = await refused(send(running, {**files, "x.png": saved(scene(9))}, request_id="r1"))
        assert isinstance(error, Exists)
        assert error.reason == "REQUEST_ID_REUSED"
        again = await bring(running, files)
        assert again.name != first.name
        assert again.items_accepted == 4
        assert len(await items(running)) == 4


async def test_a_broken_stream_is_refused_with_its_reason(start: Start) -> None:
    async with start() as running:
        assert isinstance(await refused(send(running, {"a.png": b"x"})), Missing)
        await create(running)

        async def streamed(*messages: pb.ImportItemsRequest) -> MarsamError:
            async def stream() -> object:
                for message in messages:
                    yield message

            return await refused(running.stub.ImportItems(stream(), timeout=30))

        header = pb.ImportItemsRequest(header=pb.ImportHeader(parent=DATASET))
        file = pb.ImportItemsRequest(file=common_pb2.FileHeader(path="a.png", size_bytes=4))
        cases = [
            ((file,), "STREAM_ORDER"),
            ((header, pb.ImportItemsRequest(chunk=b"abc")), "STREAM_ORDER"),
            ((header, file, pb.ImportItemsRequest(chunk=b"abc")), "SIZE_MISMATCH"),
            ((header, file, pb.ImportItemsRequest(chunk=b"abcde")), "SIZE_MISMATCH"),
            ((header,), "IMPORT_EMPTY"),
            ((header, pb.ImportItemsRequest(chunk=b"x" * 300_000)), "REQUEST_INVALID"),
        ]
        for messages, reason in cases:
            error = await streamed(*messages)
            assert isinstance(error, Invalid)
            assert error.reason == reason
        assert await items(running) == {}


async def test_wrong_digests_and_repeated_paths_cost_only_their_file(start: Start) -> None:
    async with start() as running:
        await create(running)

        async def stream() -> object:
            async for part in parts({"a.png": saved(scene(1))}, pb.ImportHeader(parent=DATASET)):
                yield part
            data = saved(scene(2))
            lie = "sha256:" + "0" * 64
            yield pb.ImportItemsRequest(file=common_pb2.FileHeader(path="b.png", size_bytes=len(data), digest=lie))
            yield pb.ImportItemsRequest(chunk=data)
            yield pb.ImportItemsRequest(file=common_pb2.FileHeader(path="a.png", size_bytes=len(data)))
            yield pb.ImportItemsRequest(chunk=data)

        response = await running.stub.ImportItems(stream(), timeout=60)
        done = (await follow(running, getattr(response, "import").name))[-1]
        assert done.items_accepted == 1
        assert sorted(v.reason for v in done.refused) == ["DIGEST_MISMATCH", "FILE_TWICE"]
