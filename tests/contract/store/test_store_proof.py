"""A store that does not keep what the logs rest on is refused at start, by the name of what it breaks."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from marsam.core.errors import Deadline, Exists, Invalid, Precondition
from marsam.store.blobs import Blobs, Entry
from marsam.store.folder import FolderBlobs
from marsam.store.open import open_store, prove


class Overwriting(FolderBlobs):
    """As S3 servers are that ignore If-None-Match."""

    async def create(self, key: str, data: bytes) -> None:
        await self.put(key, data)


class CheckThenWrite(FolderBlobs):
    """As stores are whose 'do not overwrite' is a look before the write."""

    async def create(self, key: str, data: bytes) -> None:
        if (self.root / key).exists():
            raise Exists(f"{key} exists")
        await self.stat_root()
        await self.put(key, data)

    async def stat_root(self) -> None:
        async for _ in self.children(""):
            return


class EveryoneWins(FolderBlobs):
    """As a create that swallows the answer."""

    async def create(self, key: str, data: bytes) -> None:
        try:
            await super().create(key, data)
        except Exists:
            if key.endswith("once"):
                raise


class ListingLate(FolderBlobs):
    """As stores are with eventual listings."""

    async def children(self, prefix: str) -> AsyncIterator[Entry]:
        async for entry in super().children(prefix):
            if entry.name != "race":
                yield entry


class ReadingOld(FolderBlobs):
    """As a cache in front of a store."""

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        return b"old"


class KeepingAll(FolderBlobs):
    """As a bucket whose deletes only hide."""

    async def delete(self, keys: object) -> None:
        return


class Hanging(FolderBlobs):
    """As a store behind a firewall that drops packets."""

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        await asyncio.sleep(3600)
        return b""


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Overwriting, "STORE_CREATE_ONLY"),
        (CheckThenWrite, "STORE_CREATE_RACE"),
        (EveryoneWins, "STORE_CREATE_RACE"),
        (ListingLate, "STORE_LIST_AFTER_WRITE"),
        (ReadingOld, "STORE_READ_AFTER_WRITE"),
        (KeepingAll, "STORE_DELETE"),
    ],
)
async def test_a_broken_store_is_refused(tmp_path: Path, kind: type[FolderBlobs], reason: str) -> None:
    with pytest.raises(Precondition) as caught:
        await prove(kind(tmp_path))
    assert caught.value.reason == reason
    assert str(tmp_path) in caught.value.message
    assert caught.value.remedy


async def test_a_store_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(Deadline) as caught:
        await prove(Hanging(tmp_path), timeout_s=0.2)
    assert caught.value.reason == "STORE_SLOW"


def test_a_folder_is_named_by_path_or_url(tmp_path: Path) -> None:
    for url in (str(tmp_path / "s p"), (tmp_path / "s p").as_uri()):
        store: Blobs = open_store(url)
        assert store.describe() == f"folder {tmp_path / 's p'}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relative/path",
        "file://host/path",
        "ftp://x/y",
        "http://x",
        "file:relative",
        "s3://",
        "s3://Bucket/x",
        "s3:/b",
    ],
)
def test_what_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        open_store(url)
    assert caught.value.reason == "STORE_URL"


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(Precondition) as caught:
            open_store(str(path))
        assert caught.value.reason == "STORE_NOT_A_FOLDER"


def test_what_dead_writers_left_is_swept(tmp_path: Path) -> None:
    FolderBlobs(tmp_path)
    old, new = tmp_path / ".tmp" / "1-old", tmp_path / ".tmp" / "2-new"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    open_store(str(tmp_path))
    assert (old.exists(), new.exists()) == (False, True)
