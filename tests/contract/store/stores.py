"""The stores that the behaviour suites run over. Local ones, and all: a new one joins by one more entry."""

from collections.abc import Callable
from pathlib import Path

from marsam.core.ids import sha256_hex
from marsam.store.blobs import Blobs
from marsam.store.metered import MeteredBlobs
from marsam.store.open import open_store
from marsam.telemetry import Meter

BUCKET = "marsam-tests"

STORES: dict[str, Callable[[Path], str]] = {
    "folder": lambda scratch: (scratch / "store").as_uri(),
    "folder, metered": lambda scratch: (scratch / "store").as_uri(),
}
# Of every kind; those on S3 want the fixture `seaweed`.
ALL_STORES = STORES | {"s3": lambda scratch: f"s3://{BUCKET}/{sha256_hex(str(scratch).encode())[:16]}"}


def open_named(name: str, scratch: Path) -> Blobs:
    """Open the store called `name`, empty at first; the same scratch folder gives the same store again."""
    blobs = open_store(ALL_STORES[name](scratch))
    return MeteredBlobs(blobs, Meter(service="test", version="0")) if name.endswith("metered") else blobs
