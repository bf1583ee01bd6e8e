"""The blobs of a project as the store lists them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from marsam.core.ids import is_digest
from marsam.store import keys
from marsam.store.blobs import Blobs, names


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """One stored blob: its digest, its size in bytes, and when it was written by the store's clock."""

    digest: str
    size: int
    modified: datetime


async def contents(blobs: Blobs, project: str) -> AsyncIterator[Content]:
    """Yield every blob of `project`, one folder of two digits (a 256th of them) in memory at a time."""
    root = keys.blobs(project)
    for shard in await names(blobs, root, folders=True):
        async for entry in blobs.children(f"{root}/{shard}"):
            digest = f"sha256:{entry.name}"
            if not entry.folder and entry.modified is not None and is_digest(digest):
                yield Content(digest=digest, size=entry.size, modified=entry.modified)
