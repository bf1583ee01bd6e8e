"""Throughput over a sliding window: what "images per second" means everywhere in Marsam."""

import threading
import time
from collections import deque
from collections.abc import Callable


class Rate:
    """Events per second over the last `window_s` seconds; falls to zero when nothing happens.

    Thread-safe: a worker thread adds while the scrape or a progress line reads.
    """

    def __init__(self, *, window_s: float = 30.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        if window_s <= 0:
            raise ValueError(f"window_s must be > 0, got {window_s}")
        self._window_s = window_s
        self._monotonic = monotonic
        self._began = monotonic()
        self._events: deque[tuple[float, float]] = deque()
        self._sum = 0.0
        self._lock = threading.Lock()

    def add(self, amount: float = 1.0) -> None:
        """Record `amount` events at this moment."""
        now = self._monotonic()
        with self._lock:
            self._events.append((now, amount))
            self._sum += amount
            self._forget(now)

    def per_second(self) -> float:
        """The rate now. In the first window the divisor is the age of the rate, at least a second."""
        now = self._monotonic()
        with self._lock:
            self._forget(now)
            span = min(self._window_s, max(now - self._began, 1.0))
            return self._sum / span if self._events else 0.0

    def _forget(self, now: float) -> None:
        while self._events and self._events[0][0] < now - self._window_s:
            self._sum -= self._events.popleft()[1]
