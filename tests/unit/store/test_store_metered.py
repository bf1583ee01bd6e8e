"""What a measured store counts. That it behaves like the store inside is the behaviour suite's business."""

from pathlib import Path

import pytest

from marsam.core.errors import Exists, Missing
from marsam.store.metered import MeteredBlobs
from marsam.store.open import open_store
from marsam.telemetry import Meter


async def test_calls_bytes_and_outcomes_are_counted(tmp_path: Path) -> None:
    meter = Meter(service="test", version="0")
    blobs = MeteredBlobs(open_store(str(tmp_path)), meter)

    def calls(operation: str, outcome: str) -> float | None:
        return meter.value("marsam_store_operations_total", operation=operation, outcome=outcome)

    await blobs.create("a/b", b"12345")
    with pytest.raises(Exists):
        await blobs.create("a/b", b"other")
    await blobs.put("a/c", b"123")
    assert await blobs.get("a/b", start=1, length=2) == b"23"
    with pytest.raises(Missing):
        await blobs.get("a/x")
    assert sorted([entry.name async for entry in blobs.children("a")]) == ["b", "c"]
    assert (calls("create", "ok"), calls("create", "ALREADY_EXISTS")) == (1, 1)
    assert (calls("get", "ok"), calls("get", "NOT_FOUND")) == (1, 1)
    assert calls("children", "ok") == 1
    assert meter.value("marsam_store_bytes_total", direction="written") == 8
    assert meter.value("marsam_store_bytes_total", direction="read") == 2
    assert meter.value("marsam_store_operation_seconds_count", operation="create") == 2
