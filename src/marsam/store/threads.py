"""The store's own threads: disk and network waits never block the event loop, nor queue behind image decoding."""

import asyncio
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 16


@functools.cache
def _executor(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix=f"marsam-store-{process}")


async def offload(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run blocking `work` on the store's threads and return its result.

    The pool is per process: a forked child makes its own. A cancelled caller stops waiting; the work runs to its end.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_executor(os.getpid()), functools.partial(work, *args, **kwargs))
