import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from marsam.core.errors import Corrupt, Deadline, Exhausted, Expired, Invalid, Missing, Precondition
from marsam.core.ids import digest_of
from marsam.store import keys
from marsam.store.cache import Cache
from marsam.store.content import Digested, digest_file, put_blob, read_blob, stream_blob
from marsam.store.folder import FolderBlobs
from marsam.store.lock import only_one

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "store")


@dataclass(frozen=True, kw_only=True)
class Placed:
    path: str
    digest: str
    size: int


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def damage(blobs: FolderBlobs, digest: str) -> None:
    file = blobs.root / keys.blob("p", digest)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)


def hold(lock: Path) -> subprocess.Popen[str]:
    """Start a process that holds `lock` until it is killed."""
    code = "import fcntl,sys,time; f=open(sys.argv[1],'w'); fcntl.flock(f,2); print('held',flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


async def test_bytes_files_and_streams_get_the_same_address(blobs: FolderBlobs, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    expected = Digested(digest=digest_of(DATA), size=len(DATA))
    for source in (DATA, tmp_path / "file", pieces(DATA)):
        assert await put_blob(blobs, "p", source) == expected
    assert digest_file(tmp_path / "file") == expected
    assert await read_blob(blobs, "p", expected.digest) == DATA


async def test_projects_do_not_share(blobs: FolderBlobs) -> None:
    stored = await put_blob(blobs, "p", DATA)
    with pytest.raises(Missing):
        await read_blob(blobs, "other", stored.digest)


async def test_what_is_there_is_not_written_again(blobs: FolderBlobs) -> None:
    stored = await put_blob(blobs, "p", DATA)
    before = (blobs.root / keys.blob("p", stored.digest)).stat().st_ino
    await put_blob(blobs, "p", DATA)
    assert (blobs.root / keys.blob("p", stored.digest)).stat().st_ino == before


async def test_an_announced_digest_is_compared(blobs: FolderBlobs) -> None:
    for source in (DATA, pieces(DATA)):
        with pytest.raises(Corrupt) as caught:
            await put_blob(blobs, "p", source, expected=digest_of(b"other"))
        assert caught.value.reason == "DIGEST_MISMATCH"
    with pytest.raises(Missing):
        await blobs.stat(keys.blob("p", digest_of(DATA)))


async def test_a_limit_holds_before_the_whole_stream_was_read(blobs: FolderBlobs) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield bytes(1000)

    with pytest.raises(Exhausted) as caught:
        await put_blob(blobs, "p", endless(), limit=10_000)
    assert caught.value.reason == "TOO_LARGE"
    assert sent <= 12_000
    with pytest.raises(Exhausted):
        await put_blob(blobs, "p", DATA, limit=10_000)


async def test_a_stream_that_ends_early_leaves_nothing(blobs: FolderBlobs) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await put_blob(blobs, "p", broken())
    assert [entry async for entry in blobs.children("")] == []


async def test_streaming_back(blobs: FolderBlobs) -> None:
    stored = await put_blob(blobs, "p", DATA)
    got = [piece async for piece in stream_blob(blobs, "p", stored.digest, chunk=100_000)]
    assert b"".join(got) == DATA
    assert {len(piece) for piece in got[:-1]} == {100_000}
    tail = [piece async for piece in stream_blob(blobs, "p", stored.digest, start=len(DATA) - 5)]
    assert b"".join(tail) == DATA[-5:]
    with pytest.raises(Expired):
        _ = [piece async for piece in stream_blob(blobs, "p", stored.digest, start=len(DATA) + 1)]


async def test_damage_in_the_store_is_noticed(blobs: FolderBlobs, tmp_path: Path) -> None:
    stored = await put_blob(blobs, "p", DATA)
    damage(blobs, stored.digest)
    with pytest.raises(Corrupt):
        await read_blob(blobs, "p", stored.digest)
    with pytest.raises(Corrupt):
        _ = [piece async for piece in stream_blob(blobs, "p", stored.digest)]
    cache = Cache(tmp_path / "cache")
    with pytest.raises(Corrupt):
        await cache.fetch(blobs, "p", stored.digest, stored.size)
    assert not cache.path(stored.digest).exists()


async def test_the_cache_copies_once_and_read_only(blobs: FolderBlobs, tmp_path: Path) -> None:
    stored = await put_blob(blobs, "p", DATA)
    cache = Cache(tmp_path / "cache")
    paths = await asyncio.gather(*(cache.fetch(blobs, "p", stored.digest, stored.size) for _ in range(5)))
    assert set(paths) == {cache.path(stored.digest)}
    assert paths[0].read_bytes() == DATA
    assert paths[0].stat().st_mode & 0o222 == 0
    await blobs.delete([keys.blob("p", stored.digest)])
    assert await cache.fetch(blobs, "p", stored.digest, stored.size) == paths[0]
    with pytest.raises(Missing):
        await cache.fetch(blobs, "p", digest_of(b"never"), 5)


async def test_a_cut_off_cached_file_is_fetched_again(blobs: FolderBlobs, tmp_path: Path) -> None:
    stored = await put_blob(blobs, "p", DATA)
    cache = Cache(tmp_path / "cache")
    path = await cache.fetch(blobs, "p", stored.digest, stored.size)
    path.chmod(0o644)
    os.truncate(path, 10)
    assert (await cache.fetch(blobs, "p", stored.digest, stored.size)).read_bytes() == DATA


async def kept(blobs: FolderBlobs, cache: Cache, n: int) -> Digested:
    """A hundred bytes in the cache, used last at second `n` of 1970."""
    one = await put_blob(blobs, "p", bytes([n]) * 100)
    os.utime(await cache.fetch(blobs, "p", one.digest, one.size), (n, n))
    return one


async def test_trim_drops_the_least_recently_used(blobs: FolderBlobs, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", budget=200)
    stored = [await kept(blobs, cache, n) for n in (1, 2, 3)]
    await cache.fetch(blobs, "p", stored[0].digest, 100)  # used again: now the youngest
    assert await cache.trim() == 100
    assert [cache.path(one.digest).exists() for one in stored] == [True, False, True]
    assert await cache.trim() == 0
    assert await Cache(tmp_path / "cache").trim() == 0


async def test_what_is_laid_out_is_in_use_and_stays(blobs: FolderBlobs, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", budget=0)
    stored = [await kept(blobs, cache, n) for n in (1, 2)]
    tree = await cache.lay_out(
        blobs, "p", [Placed(path="w", digest=stored[0].digest, size=100)], tmp_path / "cache/tree"
    )
    assert await cache.trim() == 100
    assert [cache.path(one.digest).exists() for one in stored] == [True, False]
    assert (tree / "w").read_bytes() == b"\x01" * 100
    (tree / "w").unlink()
    assert await cache.trim() == 100


async def test_one_process_trims_at_a_time(blobs: FolderBlobs, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", budget=0)
    await kept(blobs, cache, 1)
    with only_one(cache.root / "locks" / "trim"):
        assert await cache.trim() == 0
    assert await cache.trim() == 100


async def test_what_a_killed_fetch_left_goes_after_a_day(blobs: FolderBlobs, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", budget=1000)
    one = await kept(blobs, cache, 1)
    left = cache.path(one.digest).with_name("123-abc")
    left.write_bytes(b"half")
    await cache.trim()
    assert left.exists()
    os.utime(left, (1, 1))
    await cache.trim()
    assert (left.exists(), cache.path(one.digest).exists()) == (False, True)


async def test_laying_out_and_trimming_at_once_loses_nothing(blobs: FolderBlobs, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", budget=0)
    stored = [await put_blob(blobs, "p", bytes([n]) * 100) for n in range(20)]
    files = [Placed(path=f"{n}", digest=one.digest, size=100) for n, one in enumerate(stored)]
    done = asyncio.Event()

    async def trimming() -> None:
        while not done.is_set():
            await cache.trim()

    trimmer = asyncio.create_task(trimming())
    trees = await asyncio.gather(*(cache.lay_out(blobs, "p", files, tmp_path / f"tree{n}") for n in range(4)))
    done.set()
    await trimmer
    for tree in trees:
        assert [(tree / f"{n}").read_bytes() for n in range(20)] == [bytes([n]) * 100 for n in range(20)]


async def test_another_process_that_hangs_while_fetching_is_not_waited_for_for_ever(
    blobs: FolderBlobs, tmp_path: Path
) -> None:
    stored = await put_blob(blobs, "p", DATA)
    cache = Cache(tmp_path / "cache")
    lock = cache.root / "locks" / stored.digest.removeprefix("sha256:")
    holder = hold(lock)
    try:
        with pytest.raises(Deadline) as caught:
            await cache.fetch(blobs, "p", stored.digest, stored.size, timeout_s=0.2)
        assert caught.value.reason == "CACHE_BUSY"
        waiting = asyncio.create_task(cache.fetch(blobs, "p", stored.digest, stored.size))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        holder.kill()
        assert (await waiting).read_bytes() == DATA
    finally:
        holder.kill()
        holder.wait()


async def test_a_tree_is_laid_out_with_links(blobs: FolderBlobs, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    one, two = await put_blob(blobs, "p", b"one"), await put_blob(blobs, "p", b"two!")
    files = [
        Placed(path="unet/config.json", digest=one.digest, size=one.size),
        Placed(path="unet/weights.bin", digest=two.digest, size=two.size),
        Placed(path="copy.bin", digest=two.digest, size=two.size),
    ]
    into = await cache.lay_out(blobs, "p", files, tmp_path / "tree")
    found = {str(p.relative_to(into)): p.read_bytes() for p in into.rglob("*") if p.is_file()}
    assert found == {"unet/config.json": b"one", "unet/weights.bin": b"two!", "copy.bin": b"two!"}
    assert (into / "copy.bin").samefile(cache.path(two.digest))
    assert await cache.lay_out(blobs, "p", files, into) == into  # again: nothing to do
    (into / "copy.bin").unlink()
    (into / "copy.bin").write_bytes(b"something else")
    await cache.lay_out(blobs, "p", files, into)
    assert (into / "copy.bin").read_bytes() == b"two!"
    clash = [Placed(path="unet", digest=one.digest, size=one.size)]
    with pytest.raises(Precondition):
        await cache.lay_out(blobs, "p", clash, into)


@pytest.mark.parametrize(
    "path", ["../out", "/abs", "a/../../out", "a//b", "", ".", "a\\..\\b", "c:evil", "a\0b", "a\nb", "a/" + "x" * 300]
)
async def test_a_tree_cannot_leave_its_folder(blobs: FolderBlobs, tmp_path: Path, path: str) -> None:
    cache = Cache(tmp_path / "cache")
    one = await put_blob(blobs, "p", b"one")
    files = [
        Placed(path="fine", digest=one.digest, size=one.size),
        Placed(path=path, digest=one.digest, size=one.size),
    ]
    with pytest.raises(Invalid) as caught:
        await cache.lay_out(blobs, "p", files, tmp_path / "tree")
    assert caught.value.reason == "PATH_UNSAFE"
    assert not (tmp_path / "tree").exists()
