"""What every store must do, one property a test."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from marsam.core.errors import Corrupt, Exists, Expired, Invalid, Missing, Precondition
from marsam.core.ids import sha256_hex
from marsam.store.blobs import CREATE_LIMIT, Blobs, Entry, names, walk
from marsam.store.open import prove
from tests.contract.store.stores import ALL_STORES, STORES, open_named


@pytest.fixture(params=sorted(ALL_STORES))
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "s3":
        request.getfixturevalue("seaweed")
    return open_named(request.param, tmp_path)


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def entries(blobs: Blobs, prefix: str) -> dict[str, Entry]:
    return {entry.name: entry async for entry in blobs.children(prefix)}


async def test_what_is_created_can_be_read(blobs: Blobs) -> None:
    await blobs.create("p/a/log/00000001", b"one")
    assert await blobs.get("p/a/log/00000001") == b"one"


async def test_create_never_overwrites(blobs: Blobs) -> None:
    await blobs.create("k", b"first")
    with pytest.raises(Exists) as caught:
        await blobs.create("k", b"second")
    assert caught.value.reason == "OBJECT_EXISTS"
    assert await blobs.get("k") == b"first"


async def test_creating_the_same_bytes_again_is_done_already(blobs: Blobs) -> None:
    await blobs.create("k", b"mine")
    await blobs.create("k", b"mine")
    assert await blobs.get("k") == b"mine"


async def test_of_many_creates_at_once_one_wins(blobs: Blobs) -> None:
    for turn in range(10):
        key = f"race/{turn}"
        outcomes = await asyncio.gather(
            *(blobs.create(key, f"{n}".encode()) for n in range(16)), return_exceptions=True
        )
        winners = [n for n, outcome in enumerate(outcomes) if outcome is None]
        assert len(winners) == 1
        assert all(isinstance(o, Exists) for n, o in enumerate(outcomes) if n != winners[0])
        assert await blobs.get(key) == f"{winners[0]}".encode()


async def test_create_takes_commits_not_data(blobs: Blobs) -> None:
    await blobs.create("largest", bytes(CREATE_LIMIT))
    with pytest.raises(Invalid):
        await blobs.create("larger", bytes(CREATE_LIMIT + 1))
    with pytest.raises(Missing):
        await blobs.get("larger")


async def test_empty_objects_are_objects(blobs: Blobs) -> None:
    await blobs.create("empty", b"")
    assert await blobs.get("empty") == b""
    assert (await blobs.stat("empty")).size == 0


async def test_put_overwrites(blobs: Blobs) -> None:
    await blobs.put("beat", b"one")
    stat = await blobs.put("beat", b"second")
    assert stat.size == 6
    assert await blobs.get("beat") == b"second"


async def test_put_takes_bytes_files_and_streams(blobs: Blobs, tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    file = tmp_path / "source"
    file.write_bytes(data)
    await blobs.put("bytes", data, sha256=sha256_hex(data))
    await blobs.put("file", file, sha256=sha256_hex(data))
    await blobs.put("stream", stream(data[:5], b"", data[5:]), sha256=sha256_hex(data))
    for key in ("bytes", "file", "stream"):
        assert await blobs.get(key) == data


async def test_put_verifies_what_arrives(blobs: Blobs, tmp_path: Path) -> None:
    file = tmp_path / "source"
    file.write_bytes(b"damaged")
    for source in (b"damaged", file, stream(b"dam", b"aged")):
        with pytest.raises(Corrupt) as caught:
            await blobs.put("k", source, sha256=sha256_hex(b"whole"))
        assert caught.value.reason == "DIGEST_MISMATCH"
        assert sha256_hex(b"whole") in caught.value.message
        assert sha256_hex(b"damaged") in caught.value.message
    assert [key async for key in walk(blobs, "")] == []


async def test_a_broken_stream_leaves_nothing(blobs: Blobs) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await blobs.put("k", broken())
    with pytest.raises(Missing):
        await blobs.get("k")
    assert [key async for key in walk(blobs, "")] == []


async def test_an_unreadable_source_is_the_callers_fault(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        await blobs.put("k", tmp_path / "nowhere")
    assert caught.value.reason == "FILE_UNREADABLE"


async def test_ranges(blobs: Blobs) -> None:
    await blobs.put("k", b"0123456789")
    assert await blobs.get("k", start=3, length=4) == b"3456"
    assert await blobs.get("k", start=8) == b"89"
    assert await blobs.get("k", start=8, length=100) == b"89"
    assert await blobs.get("k", start=10) == b""
    with pytest.raises(Expired):
        await blobs.get("k", start=11)


async def test_what_is_not_there_is_missing(blobs: Blobs, tmp_path: Path) -> None:
    await blobs.create("folder/object", b"")
    for key in ("no", "folder", "folder/no", "folder/object/below"):
        with pytest.raises((Missing, Precondition)):
            await blobs.get(key)
    with pytest.raises(Missing):
        await blobs.stat("folder")
    with pytest.raises(Missing):
        await blobs.fetch("no", tmp_path / "copy", sha256=sha256_hex(b""), size=0)
    assert not (tmp_path / "copy").exists()


@pytest.mark.slow
async def test_stat_tells_size_and_age(blobs: Blobs) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    await blobs.put("k", b"12345")
    stat = await blobs.stat("k")
    assert stat.size == 5
    assert before < stat.modified <= stat.now + timedelta(seconds=1)
    await asyncio.sleep(2.2)  # S3 tells whole seconds
    assert 1.0 < (await blobs.stat("k")).age_s < 10


@pytest.mark.slow
async def test_an_overwrite_renews_the_age(blobs: Blobs) -> None:
    await blobs.put("k", b"1")
    first = (await blobs.stat("k")).modified
    await asyncio.sleep(1.1)
    await blobs.put("k", b"1")
    assert (await blobs.stat("k")).modified > first


async def test_fetch_verifies(blobs: Blobs, tmp_path: Path) -> None:
    data = bytes(3 << 20)
    await blobs.put("k", data)
    copy = await blobs.fetch("k", tmp_path / "deep" / "copy", sha256=sha256_hex(data), size=len(data))
    assert copy == tmp_path / "deep" / "copy"
    assert copy.read_bytes() == data
    for sha256, size in ((sha256_hex(b"other"), len(data)), (sha256_hex(data), len(data) - 1)):
        with pytest.raises(Corrupt) as caught:
            await blobs.fetch("k", tmp_path / "bad" / "copy", sha256=sha256, size=size)
        assert caught.value.reason == "DIGEST_MISMATCH"
    assert list((tmp_path / "bad").iterdir()) == []


async def test_children_are_one_level(blobs: Blobs) -> None:
    for key in ("a/1", "a/2", "a/b/3", "a/b/c/4", "ab/5", "6"):
        await blobs.create(key, key.encode())
    found = await entries(blobs, "a")
    assert {name: entry.folder for name, entry in found.items()} == {"1": False, "2": False, "b": True}
    assert found["1"].size == 3
    assert abs((datetime.now(UTC) - (found["1"].modified or datetime.min.replace(tzinfo=UTC))).total_seconds()) < 60
    assert await names(blobs, "", folders=True) == ["a", "ab"]
    assert await names(blobs, "", folders=False) == ["6"]
    assert await entries(blobs, "nowhere") == {}
    assert [key async for key in walk(blobs, "a")] == ["a/1", "a/2", "a/b/3", "a/b/c/4"]


@pytest.mark.slow
async def test_listing_pages_on_without_losing_any(blobs: Blobs) -> None:
    keys = [f"many/{n:05d}" for n in range(1100)]
    for at in range(0, len(keys), 50):
        await asyncio.gather(*(blobs.put(key, b"") for key in keys[at : at + 50]))
    assert [f"many/{name}" for name in await names(blobs, "many", folders=False)] == keys
    await blobs.delete(keys)
    assert await names(blobs, "many", folders=False) == []


async def test_delete(blobs: Blobs) -> None:
    await blobs.create("a/b/1", b"")
    await blobs.create("a/b/2", b"")
    await blobs.delete(["a/b/1", "never/there"])
    assert await names(blobs, "a/b", folders=False) == ["2"]
    await blobs.delete(["a/b/2"])
    assert [key async for key in walk(blobs, "")] == []


async def test_what_was_put_is_told_although_it_is_deleted_at_once(blobs: Blobs) -> None:
    async def put() -> None:
        for turn in range(60):
            assert (await blobs.put("a/b/c", b"x" * turn)).size == turn

    async def delete() -> None:
        while not putting.done():
            await blobs.delete(["a/b/c"])

    putting = asyncio.create_task(put())
    await delete()
    await putting


async def test_creates_and_deletes_in_one_folder_do_not_disturb_each_other(blobs: Blobs) -> None:
    async def blink(n: int) -> None:
        for turn in range(20):
            await blobs.create(f"deep/er/still/{n}-{turn}", b"x")
            await blobs.delete([f"deep/er/still/{n}-{turn}"])

    await asyncio.gather(*(blink(n) for n in range(8)))
    assert [key async for key in walk(blobs, "")] == []


@pytest.mark.parametrize("name", sorted(STORES))
async def test_a_local_folder_without_objects_is_none(name: str, tmp_path: Path) -> None:
    blobs = open_named(name, tmp_path)
    await blobs.create("a/b/1", b"")
    await prove(blobs)
    await blobs.delete(["a/b/1"])
    assert await entries(blobs, "") == {}
    await blobs.create("a", b"the name is free again")


@pytest.mark.parametrize(
    "key",
    [
        "", "/", "/etc/passwd", "a/", "a//b", "..", "a/../b", "a/./b", ".hidden", "a/.tmp", "A", "a b", "a\\b", "a:b",
        "a\n", "a\0b", "ä", "-a/b", "_", "x" * 129, "x/" * 255 + "xyz",
    ],
)  # fmt: skip
async def test_no_key_names_a_path(blobs: Blobs, tmp_path: Path, key: str) -> None:
    for attempt in (
        lambda: blobs.create(key, b""),
        lambda: blobs.put(key, b""),
        lambda: blobs.get(key),
        lambda: blobs.stat(key),
        lambda: blobs.delete([key]),
        lambda: blobs.fetch(key, tmp_path / "copy", sha256=sha256_hex(b""), size=0),
        lambda: blobs.link(key, method="GET", ttl=timedelta(minutes=1)),
    ):
        with pytest.raises(Invalid) as caught:
            await attempt()
        assert caught.value.reason == "KEY_NOT_ALLOWED"


async def test_long_keys_work_up_to_the_limit(blobs: Blobs) -> None:
    key = "/".join(["x" * 127] * 4)
    assert len(key) == 511
    await blobs.create(key, b"deep")
    assert await blobs.get(key) == b"deep"


async def test_a_prefix_is_checked_too(blobs: Blobs) -> None:
    for prefix in ("..", "/", "a/", "a/../.."):
        with pytest.raises(Invalid):
            await entries(blobs, prefix)


async def test_links_are_urls_or_none(blobs: Blobs) -> None:
    await blobs.put("k", b"")
    link = await blobs.link("k", method="GET", ttl=timedelta(minutes=1))
    assert link is None or link.startswith(("http://", "https://"))


@pytest.mark.usefixtures("seaweed")
async def test_a_second_handle_sees_the_same_objects(tmp_path: Path) -> None:
    for name in ALL_STORES:
        await open_named(name, tmp_path).create("k", b"kept")
        assert await open_named(name, tmp_path).get("k") == b"kept"


async def test_the_proof_passes_and_leaves_nothing(blobs: Blobs) -> None:
    await prove(blobs)
    assert [key async for key in walk(blobs, "")] == []


async def test_the_loop_is_not_blocked(blobs: Blobs) -> None:
    work = asyncio.create_task(blobs.put("large", bytes(64 << 20)))
    begin = last = time.monotonic()
    longest = 0.0
    while not work.done():
        await asyncio.sleep(0.002)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    await work
    assert longest < max(0.5, (last - begin) / 2)


def test_describe_names_the_place(blobs: Blobs, tmp_path: Path) -> None:
    places = {url(tmp_path).removeprefix("file://") for url in ALL_STORES.values()}
    assert any(place in blobs.describe() for place in places)
