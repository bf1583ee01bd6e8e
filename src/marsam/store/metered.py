"""Any store, measured: how often it is asked, how long it takes, how many bytes pass, how it fails."""

import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal

from marsam.core.errors import MarsamError
from marsam.store.blobs import Blobs, Entry, Stat
from marsam.telemetry import Meter, metrics


class MeteredBlobs:
    """`Blobs` that passes every call on. The outcome label is `ok`, or the error's code (`NOT_FOUND`, …)."""

    def __init__(self, inner: Blobs, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    def describe(self) -> str:
        """The inner store's description."""
        return self._inner.describe()

    async def create(self, key: str, data: bytes) -> None:
        """See `Blobs.create`."""
        with self._measured("create"):
            await self._inner.create(key, data)
        self._meter.inc(metrics.STORE_BYTES, len(data), direction="written")

    async def put(self, key: str, source: bytes | Path | AsyncIterable[bytes], *, sha256: str | None = None) -> Stat:
        """See `Blobs.put`."""
        with self._measured("put"):
            stat = await self._inner.put(key, source, sha256=sha256)
        self._meter.inc(metrics.STORE_BYTES, stat.size, direction="written")
        return stat

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See `Blobs.get`."""
        with self._measured("get"):
            data = await self._inner.get(key, start=start, length=length)
        self._meter.inc(metrics.STORE_BYTES, len(data), direction="read")
        return data

    async def stat(self, key: str) -> Stat:
        """See `Blobs.stat`."""
        with self._measured("stat"):
            return await self._inner.stat(key)

    async def fetch(self, key: str, into: Path, *, sha256: str, size: int) -> Path:
        """See `Blobs.fetch`."""
        with self._measured("fetch"):
            path = await self._inner.fetch(key, into, sha256=sha256, size=size)
        self._meter.inc(metrics.STORE_BYTES, size, direction="read")
        return path

    async def children(self, prefix: str) -> AsyncIterator[Entry]:
        """See `Blobs.children`. The time is from the first entry to the last, pauses of the reader too."""
        with self._measured("children"):
            async for entry in self._inner.children(prefix):
                yield entry

    async def delete(self, keys: Sequence[str]) -> None:
        """See `Blobs.delete`."""
        with self._measured("delete"):
            await self._inner.delete(keys)

    async def link(self, key: str, *, method: Literal["GET", "PUT"], ttl: timedelta) -> str | None:
        """See `Blobs.link`."""
        with self._measured("link"):
            return await self._inner.link(key, method=method, ttl=ttl)

    @contextlib.contextmanager
    def _measured(self, operation: str) -> Iterator[None]:
        outcome = "ok"
        began = time.monotonic()
        try:
            yield
        except MarsamError as error:
            outcome = error.code
            raise
        except Exception:
            outcome = "INTERNAL"
            raise
        finally:
            self._meter.inc(metrics.STORE_OPERATIONS, operation=operation, outcome=outcome)
            self._meter.observe(metrics.STORE_SECONDS, time.monotonic() - began, operation=operation)
