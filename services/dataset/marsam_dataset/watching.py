"""Streams that end with a word when the service stops, rather than hold it up or break off."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from marsam.core.errors import Unavailable

T = TypeVar("T")

SILENCE_S = 15.0
"""A stream that has nothing new repeats its last word this often, so that nobody takes it for dead."""


async def until(stop: asyncio.Event, updates: AsyncIterator[T], *, silence_s: float = SILENCE_S) -> AsyncIterator[T]:
    """Yield `updates` to their end, the last one again after every `silence_s` without another.

    Raises Unavailable (RECONNECT) when `stop` is set while waiting for one.
    """
    stopping = asyncio.create_task(stop.wait(), name="watch.stop")
    following: asyncio.Task[T | None] | None = None
    last: T | None = None
    try:
        while True:
            following = following or asyncio.create_task(_next(updates), name="watch.next")
            await asyncio.wait({following, stopping}, timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                last, following = following.result(), None
                if last is None:
                    return
                yield last
            elif stopping.done():
                raise Unavailable(
                    "the service stops", reason="RECONNECT", remedy="watch again: the import goes on", retry_after_s=1.0
                )
            elif last is not None:
                yield last
    finally:
        tasks = {task for task in (following, stopping) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _next(updates: AsyncIterator[T]) -> T | None:
    return await anext(updates, None)
