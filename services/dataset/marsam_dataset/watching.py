"""Streams whose every message is the whole: one that has nothing new repeats its last word."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from marsam.rpc.server.watching import PAUSE_S, with_pauses

T = TypeVar("T")


async def until(stop: asyncio.Event, updates: AsyncIterator[T], *, silence_s: float = PAUSE_S) -> AsyncIterator[T]:
    """Yield `updates` to their end, the last one again after every `silence_s` without another.

    Raises Unavailable (RECONNECT) when `stop` is set while waiting for one.
    """
    last: T | None = None
    async for update in with_pauses(updates, stop=stop, pause_s=silence_s):
        last = last if update is None else update
        if last is not None:
            yield last
