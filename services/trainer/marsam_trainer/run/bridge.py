"""The store speaks asyncio, training does not: one event loop on a thread of its own stands between."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from marsam.core.errors import Deadline

T = TypeVar("T")

FILES_S = 6 * 3600.0
"""Seconds that the store may take for files as large as a model or a checkpoint. What is wrong with it is said sooner:
it has patience of its own with a server that does not answer."""


class Bridge:
    """Runs coroutines for a thread that has no event loop. A context manager; leaving it ends the loop and its
    thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="run.bridge", daemon=True)

    def __enter__(self) -> "Bridge":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10.0)
        if not self._thread.is_alive():
            self._loop.close()

    def call(self, work: Coroutine[Any, Any, T], *, timeout_s: float = 600.0) -> T:
        """Run `work` to its end and return its result. Raises what it raises, or `Deadline` after `timeout_s`."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except TimeoutError as error:
            if not future.done():
                future.cancel()
                raise Deadline(f"the store did not answer within {timeout_s:g} s", reason="STORE_SLOW") from error
            raise
