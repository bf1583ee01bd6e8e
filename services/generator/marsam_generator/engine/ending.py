"""What those are told who wait for something that ends."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import TypeVar

from marsam.core.errors import Unavailable

T = TypeVar("T")


def shutting_down() -> Unavailable:
    """What ends whatever is not done when the generator ends."""
    return Unavailable("the generator is shutting down", reason="SHUTTING_DOWN")


async def awaited(coming: Awaitable[T]) -> T:
    """What comes of it. Raises `Unavailable` when it is given up by whoever was to make it, and not by who waits."""
    try:
        return await coming
    except asyncio.CancelledError:
        waiting = asyncio.current_task()
        if waiting is None or waiting.cancelling():
            raise
        raise shutting_down() from None


async def on(pool: Executor, work: Callable[[], T]) -> T:
    """Run `work` on a thread of a pool. Raises `Unavailable` where the pool ends before its turn."""
    try:
        future = pool.submit(work)
    except RuntimeError as error:  # the pool has ended
        raise shutting_down() from error
    return await awaited(asyncio.wrap_future(future))
