"""Watching a stream of events: cancelled from elsewhere, and begun in time."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from marsam.core.errors import Cancelled, Deadline

T = TypeVar("T")


class _End:
    """What comes after the last event."""


async def attended(
    source: AsyncGenerator[T, None],
    cancelled: asyncio.Event,
    *,
    begin_by: float | None = None,
    begins: Callable[[T], bool] = lambda _: True,
) -> AsyncGenerator[T, None]:
    """What `source` yields.

    Raises `Cancelled` when the event is set, `Deadline` when nothing that `begins` came by the monotonic time
    `begin_by`: at once, whatever the source is waiting for. From then on the source minds its own deadline.
    """
    stop = asyncio.create_task(cancelled.wait(), name="studio.cancelled")
    coming: asyncio.Task[T | _End] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.create_task(_next(source), name="studio.next")
            patience = None if begin_by is None else max(0.0, begin_by - time.monotonic())
            await asyncio.wait({coming, stop}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                raise Cancelled("the generation was cancelled", reason="GENERATION_CANCELLED")
            if not coming.done():
                raise Deadline("the deadline passed before the first step")
            event, coming = coming.result(), None
            if isinstance(event, _End):
                return
            if begins(event):
                begin_by = None
            yield event
    finally:
        stop.cancel()
        # Cancelled where it waits, the source unwinds and frees its places.
        pending = {task for task in (stop, coming) if task is not None}
        if coming is not None:
            coming.cancel()
        await asyncio.wait(pending)
        await source.aclose()


async def _next(source: AsyncGenerator[T, None]) -> T | _End:
    return await anext(source, _End())
