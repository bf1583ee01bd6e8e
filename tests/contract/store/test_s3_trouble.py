"""What only a store behind a network does: lost answers, wrong keys, wrong clocks, deaths and silence."""

import asyncio
import random
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hayy.demo.seaweed import Seaweed, running

from marsam.core.errors import Denied, Exists, MarsamError, OutcomeUnknown, Precondition, Unavailable
from marsam.core.ids import new_ulid
from marsam.store.open import open_store, prove
from marsam.store.s3 import client
from marsam.store.s3.blobs import S3Blobs
from marsam.store.settings import S3Settings
from tests.contract.store.lossy import lossy
from tests.contract.store.stores import BUCKET


def settings(server: Seaweed, **other: str) -> S3Settings:
    own = {"s3_endpoint": server.endpoint, "s3_access_key": server.access_key, "s3_secret_key": server.secret_key}
    return S3Settings(**(own | other))


def store(server: Seaweed, *, bucket: str = BUCKET, patience_s: float = 0.5, **other: str) -> S3Blobs:
    return S3Blobs(bucket, new_ulid().lower(), settings(server, **other), patience_s=patience_s)


async def test_ones_own_success_is_known_behind_a_lost_answer(seaweed: Seaweed) -> None:
    with lossy(seaweed.endpoint) as proxy:
        blobs = store(seaweed, s3_endpoint=proxy.url)
        proxy.losing = 1
        await blobs.create("mine", b"by me")
        assert proxy.lost == 1
        assert await blobs.get("mine") == b"by me"
        proxy.losing = 1
        with pytest.raises(Exists):
            await blobs.create("mine", b"by another")
        assert proxy.lost == 2
        assert await blobs.get("mine") == b"by me"


async def test_a_put_is_sent_again_after_a_lost_answer(seaweed: Seaweed) -> None:
    with lossy(seaweed.endpoint) as proxy:
        blobs = store(seaweed, s3_endpoint=proxy.url, patience_s=5)
        proxy.losing = 1
        assert (await blobs.put("beat", b"12345")).size == 5
        assert proxy.lost == 1
        assert await blobs.get("beat") == b"12345"


async def test_a_part_is_sent_again_from_its_beginning(seaweed: Seaweed, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(1 << 20)
    (tmp_path / "file").write_bytes(data)
    with lossy(seaweed.endpoint) as proxy:
        blobs = store(seaweed, s3_endpoint=proxy.url, patience_s=0.0)
        proxy.losing = 1
        assert (await blobs.put("file", tmp_path / "file")).size == len(data)
        assert proxy.lost == 1
        assert await blobs.get("file") == data


@pytest.mark.slow
async def test_a_slow_link_carries_a_long_upload(seaweed: Seaweed) -> None:
    rate = 1 << 20
    data = random.Random(2).randbytes(int(rate * (max(client.CONNECT_S, client.READ_S) + 1.5)))
    with lossy(seaweed.endpoint, rate=rate) as proxy:
        blobs = store(seaweed, s3_endpoint=proxy.url, patience_s=0.0)
        assert (await blobs.put("slowly", data)).size == len(data)
        assert await blobs.get("slowly") == data


async def test_who_does_not_take_what_is_sent_is_slow(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "READ_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        blobs = store(seaweed, s3_endpoint=f"http://127.0.0.1:{deaf.getsockname()[1]}", patience_s=0.0)
        with pytest.raises(Unavailable) as caught:
            await blobs.put("never", bytes(12 << 20))
    assert caught.value.reason == "STORE_SLOW"


async def said(blobs: S3Blobs) -> MarsamError:
    """The error of the start-up proof; it is one sentence with a remedy, and holds no secret."""
    with pytest.raises(MarsamError) as caught:
        await prove(blobs)
    assert caught.value.remedy
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 250
    return caught.value


async def test_wrong_credentials(seaweed: Seaweed) -> None:
    for wrong in ({"s3_secret_key": "wrong-secret-of-some-length"}, {"s3_access_key": "nobody"}):
        error = await said(store(seaweed, **wrong))
        assert isinstance(error, Denied)
        assert error.reason == "STORE_CREDENTIALS"
        assert "wrong-secret" not in error.message
        assert "MARSAM_S3_ACCESS_KEY" in error.remedy


async def test_a_missing_bucket(seaweed: Seaweed) -> None:
    error = await said(store(seaweed, bucket="nowhere-at-all"))
    assert isinstance(error, Precondition)
    assert error.reason == "STORE_BUCKET_MISSING"
    assert "nowhere-at-all" in error.message


async def test_nobody_listens(seaweed: Seaweed) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    error = await said(store(seaweed, s3_endpoint=address))
    assert isinstance(error, Unavailable)
    assert error.reason == "STORE_UNREACHABLE"
    assert address in error.message
    assert "MARSAM_S3_ENDPOINT" in error.remedy


async def test_clocks_that_differ(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    import minio.api
    import minio.time

    monkeypatch.setattr(minio.time, "utcnow", lambda: datetime.now(UTC) - timedelta(hours=2))
    error = await said(store(seaweed))
    assert error.reason == "STORE_CLOCK_SKEW"
    assert "NTP" in error.remedy


async def test_a_server_that_is_none_of_s3(seaweed: Seaweed) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.send_response(404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"none")

        do_GET = do_HEAD = do_DELETE = do_POST = do_PUT

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        error = await said(store(seaweed, s3_endpoint=f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
        thread.join(10)
    assert error.reason == "STORE_NOT_S3"
    assert "MARSAM_S3_ENDPOINT" in error.remedy


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Seaweed]:
    """A server that a test may stop."""
    with running(tmp_path / "seaweed") as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.mark.slow
async def test_a_pause_is_waited_out(own: Seaweed) -> None:
    blobs = store(own, patience_s=20)
    await blobs.put("k", b"kept")
    own.pause()
    try:
        reading = asyncio.create_task(blobs.get("k"))
        writing = asyncio.create_task(blobs.create("new", b"bytes"))
        with pytest.raises(MarsamError) as caught:
            await prove(blobs, timeout_s=2)
        assert caught.value.reason == "STORE_SLOW"
    finally:
        own.go_on()
    assert await reading == b"kept"
    await writing
    assert await blobs.get("new") == b"bytes"


@pytest.mark.slow
async def test_a_killed_server_loses_no_acknowledged_write(own: Seaweed) -> None:
    blobs = store(own, patience_s=0.0)
    acknowledged: dict[str, bytes] = {}
    unsettled: set[str] = set()

    async def write(who: int) -> None:
        for n in range(10_000):
            key, data = f"load/{who}-{n}", f"{who} {n} ".encode() * 300
            try:
                await blobs.create(key, data)
            except (Unavailable, OutcomeUnknown):
                unsettled.add(key)
                return
            acknowledged[key] = data

    writers = [asyncio.create_task(write(who)) for who in range(8)]
    while len(acknowledged) < 300:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(own.kill)
    await asyncio.gather(*writers)
    assert len(unsettled) == 8
    await asyncio.to_thread(own.start)
    again = store(own, patience_s=20)
    again._prefix = blobs._prefix
    for key, data in acknowledged.items():
        assert await again.get(key) == data
    await again.create("load/after", b"writable")


async def test_a_store_without_conditions_is_refused(rclone: dict[str, str]) -> None:
    with pytest.raises(Precondition) as caught:
        await prove(open_store(f"s3://{BUCKET}/x", rclone))
    assert caught.value.reason == "STORE_CREATE_ONLY"
    assert "If-None-Match" in caught.value.remedy
