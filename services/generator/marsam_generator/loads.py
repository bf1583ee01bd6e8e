"""Loads under way: shared by all who wait for the same thing, and not stopped when they leave."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from marsam.telemetry import Log
from marsam_generator.engine.ending import awaited, shutting_down

_log = Log(__name__)


class Loads:
    """One load per key at a time. Belongs to one event loop.

    A load that has begun goes on to its end, whoever gave up waiting meanwhile: most of it happens on threads, which
    cannot be stopped, and what comes of it serves the next caller.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def join(self, key: str, load: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait for the load of `key`, which is begun if it is not under way. Raises what it raises, and
        `Unavailable` once loads are given up."""
        if self._closed:
            raise shutting_down()
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(load(), name=f"load {key}")
            task.add_done_callback(lambda done: self._ended(key, done))
        await awaited(asyncio.shield(task))

    async def close(self) -> None:
        """Give up every load that is under way, and begin no more; whoever waits for one is told so."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waits is told as well; perhaps nobody does.
            _log.warning("model.not_loaded", model=key, message=str(error))
