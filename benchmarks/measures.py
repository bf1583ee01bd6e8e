"""What the benchmarks share: the times of many calls, and the machine that they were measured on."""

import asyncio
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any


async def latencies(calls: Sequence[Callable[[], Awaitable[Any]]], *, at_once: int) -> list[float]:
    """Milliseconds of each call, `at_once` of them under way at any time."""
    waiting = iter(calls)
    found: list[float] = []

    async def worker() -> None:
        for call in waiting:
            began = time.perf_counter()
            await call()
            found.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return found


def quantiles(values: Sequence[float]) -> tuple[float, float]:
    """The median, and the value that 95 of 100 stay below."""
    cuts = statistics.quantiles(values, n=20)
    return cuts[9], cuts[18]


def machine() -> dict[str, Any]:
    """Where the figures were measured, and what else ran there just before."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }
