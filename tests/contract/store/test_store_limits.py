"""A full disk, a forbidden folder: a stated error, nothing half-written, and on again after."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from marsam.core.errors import Denied, Exhausted, Missing, Precondition
from marsam.core.ids import sha256_hex
from marsam.store.blobs import walk
from marsam.store.cache import Cache
from marsam.store.content import put_blob
from marsam.store.folder import FolderBlobs

_LIMITED = """
import asyncio, json, resource, sys
from pathlib import Path
from marsam.core.errors import Exhausted
from marsam.store.blobs import walk
from marsam.store.folder import FolderBlobs
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
async def main():
    blobs = FolderBlobs(Path(sys.argv[1]))
    reasons = []
    for write in (blobs.create("a", bytes(200_000)), blobs.put("b", bytes(200_000))):
        try:
            await write
        except Exhausted as error:
            reasons.append(error.reason)
    await blobs.create("c", b"small")
    print(json.dumps([reasons, [key async for key in walk(blobs, "")]]))
asyncio.run(main())
"""


def test_a_file_larger_than_allowed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["STORE_FULL", "STORE_FULL"], ["c"]]
    assert list((tmp_path / ".tmp").iterdir()) == []


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.fail(f"a full disk is proved on a small tmpfs, which needs the right to mount: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


async def test_a_full_disk(tiny: Path) -> None:
    blobs = FolderBlobs(tiny / "store")
    await blobs.put("filler", bytes(900_000))
    for write in (
        blobs.create("a", bytes(500_000)),
        blobs.put("b", bytes(500_000), sha256=sha256_hex(bytes(500_000))),
        put_blob(blobs, "p", bytes(500_000)),
    ):
        with pytest.raises(Exhausted) as caught:
            await write
        assert caught.value.reason == "STORE_FULL"
        assert "disk" in caught.value.remedy
    assert [key async for key in walk(blobs, "")] == ["filler"]
    await blobs.delete(["filler"])
    await blobs.create("a", bytes(500_000))


async def test_a_full_cache_disk(tiny: Path, tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "store")
    stored = await put_blob(blobs, "p", bytes(range(256)) * 8000)
    cache = Cache(tiny / "cache")
    with pytest.raises(Exhausted):
        await cache.fetch(blobs, "p", stored.digest, stored.size)
    assert not cache.path(stored.digest).exists()


def test_a_store_that_may_not_be_written(tmp_path: Path) -> None:
    code = (
        "import asyncio,os,sys\nfrom pathlib import Path\nfrom marsam.store.folder import FolderBlobs\n"
        "from marsam.core.errors import Denied\nblobs = FolderBlobs(Path(sys.argv[1]))\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n    asyncio.run(blobs.create('a', b''))\nexcept Denied as error:\n    print(error.reason)"
    )
    if os.getuid() != 0:
        (tmp_path / ".tmp").mkdir(mode=0o500)
        tmp_path.chmod(0o500)
        with pytest.raises(Denied):
            FolderBlobs(tmp_path / "store")
        tmp_path.chmod(0o700)
        return
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "STORE_DENIED", done.stderr


async def test_a_key_is_never_object_and_folder(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    await blobs.create("a/b", b"object")
    for write in (blobs.create("a", b"x"), blobs.put("a", b"x"), blobs.create("a/b/c", b"x"), blobs.put("a/b/c", b"x")):
        with pytest.raises(Precondition) as caught:
            await write
        assert caught.value.reason == "KEY_LAYOUT"
    assert [key async for key in walk(blobs, "")] == ["a/b"]
    with pytest.raises(Missing):
        await blobs.stat("a")
