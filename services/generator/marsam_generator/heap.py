"""Memory that was freed here and that the C library keeps: given back to the system now and then.

A tensor lies at an aligned address, and what glibc cuts off before it stays behind in pieces that fit nothing else:
what is in use stays level while the resident set creeps, by 2.5 MiB per thousand small pictures of a tiny model.
"""

import asyncio
import contextlib
import ctypes
from collections.abc import AsyncIterator, Callable

EVERY_S = 60.0
"""Trimming a heap of some hundred MiB takes milliseconds, in which other threads that allocate wait."""


def trimmer() -> Callable[[], object] | None:
    """What gives free pages of the heap back to the system; None where the C library cannot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(0)


@contextlib.asynccontextmanager
async def trimmed(every_s: float = EVERY_S) -> AsyncIterator[None]:
    """Within this block the heap is trimmed every `every_s` seconds, off the event loop."""
    trim = trimmer()
    if trim is None:
        yield
        return
    task = asyncio.create_task(_keep_trimming(trim, every_s), name="heap.trim")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _keep_trimming(trim: Callable[[], object], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(trim)
