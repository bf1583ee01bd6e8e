"""The stores that the behaviour suites run over. A new one joins by one more entry."""

from collections.abc import Callable
from pathlib import Path

from marsam.store.blobs import Blobs
from marsam.store.metered import MeteredBlobs
from marsam.store.open import open_store
from marsam.telemetry import Meter

STORES: dict[str, Callable[[Path], str]] = {
    "folder": lambda scratch: (scratch / "store").as_uri(),
    "folder, metered": lambda scratch: (scratch / "store").as_uri(),
}


def open_named(name: str, scratch: Path) -> Blobs:
    """Open the store called `name`, empty at first; the same scratch folder gives the same store again."""
    blobs = open_store(STORES[name](scratch))
    return MeteredBlobs(blobs, Meter(service="test", version="0")) if name.endswith("metered") else blobs
