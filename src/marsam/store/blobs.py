"""The interface of the object store, and what can be said with it alone."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

from marsam.core.errors import OutcomeUnknown

# What `create` takes: commits are small. Larger data goes by `put` under its content address first.
CREATE_LIMIT = 1 << 20

_UNCLEAR_TRIES = 3
_UNCLEAR_PAUSE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Stat:
    """One object as the store sees it. `modified` and `now` are of the store's clock, so their difference is an age."""

    size: int
    modified: datetime
    now: datetime

    @property
    def age_s(self) -> float:
        """Seconds since the object was written, by the store's own clock."""
        return (self.now - self.modified).total_seconds()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One child of a prefix: an object (with size and time) or a folder (`size` 0, `modified` None)."""

    name: str
    folder: bool
    size: int = 0
    modified: datetime | None = None


class Blobs(Protocol):
    """Every byte Marsam shares.

    A key is '/'-joined segments of [a-z0-9._-] that start with a letter or digit, at most 512 bytes, and is never both
    an object and a folder. Every method raises Invalid (KEY_NOT_ALLOWED) for another key, Exhausted (STORE_FULL) when
    there is no room, Denied, or Unavailable when the store does not answer. Nothing half-written is ever visible.
    """

    async def create(self, key: str, data: bytes) -> None:
        """Write `data` (at most 1 MiB) under a key that must be free, durably.

        The same bytes already there count as done: every record holds a random id, so equal bytes are one's own.

        Raises Exists when other bytes are there, OutcomeUnknown when it cannot be told whether the write happened.
        """
        ...

    async def put(self, key: str, source: bytes | Path | AsyncIterable[bytes], *, sha256: str | None = None) -> Stat:
        """Write any amount of data; the last writer wins. For content addresses and single-writer heartbeats only.

        `sha256` (64 hexadecimal digits) is compared as the bytes pass: Corrupt (DIGEST_MISMATCH), nothing is written.
        """
        ...

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes (or all) from `start` on. Raises Missing; Expired when `start` is past the end."""
        ...

    async def stat(self, key: str) -> Stat:
        """Return size and age. Raises Missing."""
        ...

    async def fetch(self, key: str, into: Path, *, sha256: str, size: int) -> Path:
        """Copy an object to the local file `into`, which appears only once it is verified. Raises Missing, Corrupt."""
        ...

    def children(self, prefix: str) -> AsyncIterator[Entry]:
        """Yield one level below the folder `prefix` ('' is the root, no trailing '/'), unordered; nothing if absent.

        A store on S3 may go on naming a folder for a while after its last object is gone.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; absent ones are fine."""
        ...

    async def link(self, key: str, *, method: Literal["GET", "PUT"], ttl: timedelta) -> str | None:
        """Return a URL that allows one method on one key for a while, or None when the store has no URLs."""
        ...

    def describe(self) -> str:
        """Return a short description for messages: kind and place, without secrets."""
        ...


async def create_surely(blobs: Blobs, key: str, data: bytes) -> None:
    """`Blobs.create`, asked again while its outcome is unknown: the same bytes once more either find themselves there,
    or are written now. Nobody else writes them, for they name their writer.

    Raises as `Blobs.create`; OutcomeUnknown only when the store stays unclear.
    """
    for _ in range(_UNCLEAR_TRIES - 1):
        try:
            return await blobs.create(key, data)
        except OutcomeUnknown:
            await asyncio.sleep(_UNCLEAR_PAUSE_S)
    await blobs.create(key, data)


async def names(blobs: Blobs, prefix: str, *, folders: bool) -> list[str]:
    """Return the sorted names one level below `prefix`: of folders, or of objects."""
    return sorted([entry.name async for entry in blobs.children(prefix) if entry.folder == folders])


async def walk(blobs: Blobs, prefix: str) -> AsyncIterator[str]:
    """Yield every key below the folder `prefix`, depth first, in name order."""
    for entry in sorted([e async for e in blobs.children(prefix)], key=lambda e: e.name):
        key = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.folder:
            async for below in walk(blobs, key):
                yield below
        else:
            yield key
