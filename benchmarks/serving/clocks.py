"""A clock that only work moves: by the processor time that it takes. What else the machine does costs nobody a
second, and waiting for an arrival costs none to measure."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class WorkClock:
    """Belongs to one thread."""

    def __init__(self) -> None:
        self._passed = 0.0
        self._since: float | None = None

    def begin(self) -> None:
        """It is zero."""
        self._passed = 0.0

    def now(self) -> float:
        """Seconds since the beginning."""
        return self._passed + (0.0 if self._since is None else time.thread_time() - self._since)

    def wait_until(self, at: float) -> None:
        """Nothing is done until then."""
        self._passed = max(self._passed, at)

    @contextmanager
    def running(self) -> Iterator[None]:
        """What is done in this block takes its time."""
        self._since = time.thread_time()
        try:
            yield
        finally:
            self._passed, self._since = self.now(), None
