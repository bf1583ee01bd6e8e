"""Streams that end with a word when the service stops, rather than hold it up or break off."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from marsam.core.errors import Unavailable

T = TypeVar("T")


async def until(stop: asyncio.Event, updates: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield `updates` to their end. Raises Unavailable (RECONNECT) when `stop` is set while waiting for one."""
    stopping = asyncio.create_task(stop.wait(), name="watch.stop")
    following: asyncio.Task[T | None] | None = None
    try:
        while True:
            following = asyncio.create_task(_next(updates), name="watch.next")
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                raise Unavailable(
                    "the service stops", reason="RECONNECT", remedy="watch again: the import goes on", retry_after_s=1.0
                )
            update = following.result()
            if update is None:
                return
            yield update
    finally:
        tasks = {task for task in (following, stopping) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _next(updates: AsyncIterator[T]) -> T | None:
    return await anext(updates, None)
