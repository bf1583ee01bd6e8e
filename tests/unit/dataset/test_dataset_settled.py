"""Exports outlive a collector that takes away what nothing refers to."""

import time
from pathlib import Path

import pytest
from marsam_dataset.settled import Settled

from marsam.catalog.datasets import DatasetVersion, Item
from marsam.catalog.files import FileRef
from marsam.catalog.repository import save_version
from marsam.core.clock import SystemClock
from marsam.core.ids import digest_of, new_ulid
from marsam.store import keys
from marsam.store.content import FRESH_S, read_blob
from marsam.store.folder import FolderBlobs
from marsam.telemetry import Meter

NAME = "projects/p/datasets/d/versions/v1"


async def test_an_export_is_stored_anew_before_its_files_count_as_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, now = FolderBlobs(tmp_path), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    digest = digest_of(b"x")
    image = FileRef(path="i.png", digest=digest, size=1)
    item = Item(
        id=new_ulid(), file_name="a.png", image=image, original_digest=digest, pixel_digest=digest,
        width=8, height=8, phash=1, dhash=1,
    )  # fmt: skip
    await save_version(blobs, DatasetVersion(name=NAME, create_time=SystemClock().now(), items=(item,)))
    exports = Settled(blobs, Meter(service="test", version="0"))
    files = await exports.export(NAME, "imagefolder")
    own = next(file.digest for file in files if file.digest != digest)
    await blobs.delete([keys.blob("p", own)])
    assert await exports.export(NAME, "imagefolder") is files
    now[0] += FRESH_S + 1
    assert await exports.export(NAME, "imagefolder") == files
    assert await read_blob(blobs, "p", own)
