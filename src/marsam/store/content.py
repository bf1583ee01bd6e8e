"""Content-addressed bytes: hashed as they arrive, verified as they are read."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from marsam.core.errors import Exhausted, Expired, Missing
from marsam.core.ids import digest_hex, sha256_hex
from marsam.store import keys
from marsam.store.blobs import Blobs, Stat, names
from marsam.store.staging import Staging, chunks, mismatch
from marsam.store.threads import offload

STREAM_CHUNK = 256 * 1024

FRESH_S = 3600.0
"""Stored bytes older than this, by the store's clock, are written again when they are stored again: to the collector
they are new then, and who stores them has the grace period less this time to refer to them."""

MARK_LIFE_S = 900.0
"""A collector's mark older than this, by the store's clock, was left by one that died, and holds nobody up."""

_MARK_PAUSE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Digested:
    """What some bytes are called ('sha256:…') and how many they are."""

    digest: str
    size: int


def digest_file(path: Path) -> Digested:
    """Hash a local file. Blocking. Raises Invalid (FILE_UNREADABLE)."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks(path):
        digest.update(chunk)
        size += len(chunk)
    return Digested(digest=f"sha256:{digest.hexdigest()}", size=size)


async def put_blob(
    blobs: Blobs,
    project: str,
    source: bytes | Path | AsyncIterable[bytes],
    *,
    expected: str | None = None,
    limit: int | None = None,
    spool: Path | None = None,
) -> Digested:
    """Store bytes under their digest, once, and return it. A stream is spooled to a temporary file (below the folder
    `spool`, or the system's place for such), not held in memory.

    Raises Corrupt (DIGEST_MISMATCH) when the bytes are not those of digest `expected`, Exhausted (TOO_LARGE) when there
    are more than `limit`; nothing is stored then.
    """
    if not isinstance(source, bytes | Path):
        with tempfile.TemporaryDirectory(prefix="marsam-", dir=spool) as folder:
            spooled = await _spool(source, Path(folder), limit)
            return await put_blob(blobs, project, spooled, expected=expected)
    if isinstance(source, bytes):
        found = Digested(digest=f"sha256:{await offload(sha256_hex, source)}", size=len(source))
    else:
        found = await offload(digest_file, source)
    if limit is not None and found.size > limit:
        raise _too_large(limit)
    if expected is not None and found.digest != expected:
        raise mismatch("the received bytes", digest_hex(expected), digest_hex(found.digest))
    key = keys.blob(project, found.digest)
    while True:
        there = await _stat(blobs, key)
        if there is None or there.size != found.size or there.age_s > FRESH_S:
            await blobs.put(key, source, sha256=digest_hex(found.digest))
        # A collector marks, looks at the age, deletes, unmarks. So a mark seen after the write may mean a deletion
        # after it; without one, bytes that are there were not collected, and are too young for whoever begins now.
        await _unmarked(blobs, project, found.digest)
        if await _stat(blobs, key) is not None:
            return found


async def _unmarked(blobs: Blobs, project: str, digest: str) -> None:
    """Wait until no collector is about to delete the bytes called `digest`."""
    folder = keys.condemned(project, digest)
    while True:
        marks = [await _stat(blobs, f"{folder}/{name}") for name in await names(blobs, folder, folders=False)]
        if all(mark is None or mark.age_s > MARK_LIFE_S for mark in marks):
            return
        await asyncio.sleep(_MARK_PAUSE_S)


async def _stat(blobs: Blobs, key: str) -> Stat | None:
    try:
        return await blobs.stat(key)
    except Missing:
        return None


async def _spool(source: AsyncIterable[bytes], folder: Path, limit: int | None) -> Path:
    staging = await offload(Staging, folder, "the received bytes")
    try:
        async for chunk in source:
            await offload(staging.write, chunk)
            if limit is not None and staging.size > limit:
                raise _too_large(limit)
        await offload(staging.seal)
    except BaseException:
        await offload(staging.discard)
        raise
    return staging.path


def _too_large(limit: int) -> Exhausted:
    return Exhausted(f"more than the {limit} bytes allowed", reason="TOO_LARGE", remedy="send a smaller file")


async def read_blob(blobs: Blobs, project: str, digest: str) -> bytes:
    """Return the bytes called `digest`, whole. Raises Missing, Corrupt (DIGEST_MISMATCH)."""
    data = await blobs.get(keys.blob(project, digest))
    found = await offload(sha256_hex, data)
    if found != digest_hex(digest):
        raise mismatch(f"blob {digest}", digest_hex(digest), found)
    return data


async def stream_blob(
    blobs: Blobs, project: str, digest: str, *, start: int = 0, chunk: int = STREAM_CHUNK
) -> AsyncIterator[bytes]:
    """Yield the bytes called `digest` from `start` on in pieces of `chunk`. Raises Missing; Expired past the end.

    A read from the beginning is verified: Corrupt (DIGEST_MISMATCH) comes after the last piece.
    """
    key = keys.blob(project, digest)
    size = (await blobs.stat(key)).size
    running = hashlib.sha256()
    if not 0 <= start <= size:
        raise Expired(f"blob {digest} has {size} bytes; cannot read from {start}", reason="RANGE_OUTSIDE")
    at = start
    while at < size:
        piece = await blobs.get(key, start=at, length=chunk)
        if not piece:
            raise mismatch(f"blob {digest}", f"{size} bytes", f"{at} bytes")
        running.update(piece)
        at += len(piece)
        yield piece
    if start == 0 and running.hexdigest() != digest_hex(digest):
        raise mismatch(f"blob {digest}", digest_hex(digest), running.hexdigest())
