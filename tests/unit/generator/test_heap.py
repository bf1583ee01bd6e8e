"""The heap is given back while a block runs: measured at the resident set of this process."""

import asyncio
import ctypes

from marsam_generator.heap import trimmed

from marsam.telemetry.memory import process_memory

PIECE = 100 << 10
"""Below what glibc asks the system for one by one, so that it lies on the heap."""
PIECES = 1_000


def resident_bytes() -> int:
    (reading,) = process_memory()
    return reading.used


async def test_freed_memory_below_what_is_in_use_goes_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    pieces = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(PIECE))) for _ in range(PIECES)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE)
    *below, last = pieces  # that one holds the end of the heap: by itself nothing below it goes back
    for piece in below:
        libc.free(piece)
    freed = resident_bytes()
    async with trimmed(every_s=0.01), asyncio.timeout(20):
        while resident_bytes() > freed - PIECE * PIECES // 2:
            await asyncio.sleep(0.01)
    libc.free(last)


async def test_nothing_is_left_running_after_the_block() -> None:
    before = asyncio.all_tasks()
    async with trimmed(every_s=0.0):
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks() - before) == 1
    assert asyncio.all_tasks() == before
