"""What those are told who wait for something that ends or fails."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import TypeVar

import torch

from marsam.core.errors import Exhausted, Internal, MarsamError, Unavailable

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


def is_short_of_memory(error: BaseException) -> bool:
    """Whether a computation failed for want of memory, and might fit when it is smaller."""
    # The processor's allocator has no exception of its own.
    allocator = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return allocator or isinstance(error, MemoryError | torch.OutOfMemoryError)


def stated(error: BaseException) -> MarsamError:
    """What a caller is told of an error that ended a drawing."""
    if isinstance(error, MarsamError):
        return error
    if is_short_of_memory(error):
        return Exhausted(
            f"the device has no memory left for one picture: {error}",
            reason="DEVICE_MEMORY",
            resource="device memory",
            remedy="ask for a smaller picture, or give the generator less to keep in memory (memory_mib)",
        )
    return Internal(f"drawing failed: {type(error).__name__}: {error}", reason="DRAWING_FAILED")
