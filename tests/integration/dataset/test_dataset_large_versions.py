"""Versions of many thousand items: every answer stays below a message's bound, and the SDK follows the pages."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from marsam.api.dataset.v1 import dataset_pb2 as pb
from marsam.catalog.datasets import Dataset, DatasetVersion
from marsam.catalog.repository import save_dataset, save_version
from marsam.client import AsyncMarsam, Endpoints
from marsam.store.open import open_store
from tests.integration.dataset.harness import DATASET, Start
from tests.unit.dataset.factory import item

pytestmark = pytest.mark.slow

ITEMS = 8000
MESSAGE_BYTES = 1 << 20
NOW = datetime(2026, 11, 25, tzinfo=UTC)
OLD, NEW = f"{DATASET}/versions/v1", f"{DATASET}/versions/v2"


def name_of(number: int) -> str:
    return f"{'a-folder-with-a-long-name/' * 6}{number:05d}.png"


async def fill(store: Path) -> None:
    """Two versions that have nothing in common but one picture, whose captions differ."""
    blobs = open_store(str(store))
    await save_dataset(blobs, Dataset(name=DATASET, create_time=NOW))
    old = [item(n, file_name=name_of(n)) for n in range(ITEMS)]
    new = [item(n, file_name=name_of(n)) for n in range(ITEMS, 2 * ITEMS)]
    new.append(item(0, file_name=name_of(0), captions={"en": "another caption"}))
    await save_version(blobs, DatasetVersion(name=OLD, create_time=NOW, items=tuple(old)))
    await save_version(blobs, DatasetVersion(name=NEW, create_time=NOW, items=tuple(new)))


async def test_differences_and_exports_come_in_pages_below_the_bound(start: Start, tmp_path: Path) -> None:
    await fill(tmp_path / "store")
    async with start() as running:
        files, largest, token = [], 0, ""
        while True:
            request = pb.ExportVersionRequest(name=OLD, format="imagefolder", page_size=1000, page_token=token)
            page = await running.stub.ExportVersion(request, timeout=60)
            largest = max(largest, page.ByteSize())
            files += [file.path for file in page.files]
            assert page.export == f"{OLD}/exports/imagefolder"
            if not (token := page.next_page_token):
                break
        assert len(files) == len(set(files)) == ITEMS + 1 and files[-1] == "train/metadata.jsonl"
        first = await running.stub.DiffVersions(pb.DiffVersionsRequest(old=OLD, new=NEW, page_size=10_000), timeout=60)
        assert first.next_page_token and 0 < len(first.added) <= 1000
        unasked = await running.stub.ExportVersion(pb.ExportVersionRequest(name=OLD, format="imagefolder"), timeout=60)
        assert len(unasked.files) == 50 and unasked.next_page_token
        assert max(largest, first.ByteSize()) < MESSAGE_BYTES
        for message in (
            await running.stub.GetVersion(pb.GetVersionRequest(name=OLD), timeout=60),
            await running.stub.ListVersions(pb.ListVersionsRequest(parent=DATASET), timeout=60),
        ):
            assert message.ByteSize() < MESSAGE_BYTES
        target = running.target
        async with AsyncMarsam(Endpoints(dataset=target, trainer=target, generator=target)) as marsam:
            found = await marsam.datasets.diff("set/v1", "set/v2")
        assert list(found.added) == [name_of(n) for n in range(ITEMS, 2 * ITEMS)]
        assert list(found.removed) == [name_of(n) for n in range(1, ITEMS)]
        assert list(found.changed) == [name_of(0)]
        assert found.next_page_token == ""
