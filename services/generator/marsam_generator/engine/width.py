"""How many rows a tick may have: read from a curve that is measured on the device, once per latent shape.

Throughput grows with the batch until the device is full; past that knee a wider tick only makes everybody in it wait
longer.
"""

import threading
import time
from collections.abc import Callable

from marsam_generator.engine.curves import Curve, Curves

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
WORTH = 1.05
"""A wider tick must give this much more throughput than the best narrower one."""
BUDGET_S = 2.0
"""What measuring one shape may cost; a device that needs longer for a few rows is full with few rows."""
PAUSE_S = 0.5
"""After so much of it those who draw meanwhile have a tick before it goes on."""

RECOVERY_S = 600.0
"""A width that memory lowered is tried again after so long: what took the memory may be gone."""


class Measuring:
    """A curve that is being measured at growing widths up to `limit`, until width stops paying or the budget is
    spent."""

    def __init__(self, *, limit: int, budget_s: float = BUDGET_S) -> None:
        self.curve: list[tuple[int, float]] = []
        self.done = False
        self.cut_short = False
        """Whether a wider one failed."""
        self._left = [width for width in WIDTHS if width <= limit] or [1]
        self._budget = budget_s
        self.spent = 0.0

    def go_on(self, cost: Callable[[int], float]) -> None:
        """Measure the next width; `cost(rows)` runs a forward and gives its seconds. The first is always measured, and
        its failure raised."""
        rows = self._left.pop(0)
        try:
            costs = [cost(rows) for _ in range(2)]
        except Exception:
            if not self.curve:
                self._left.insert(0, rows)
                raise
            # Too wide for the memory; the narrower ones are known to fit.
            self.done = self.cut_short = True
            return
        self.spent += sum(costs)
        speed = rows / max(min(costs), 1e-6)
        self.curve.append((rows, speed))
        pays = len(self.curve) < 3 or any(one >= WORTH * self.curve[-3][1] for _, one in self.curve[-2:])
        # A run takes about as long per row as the last one did; do not start one that cannot end in time.
        in_time = bool(self._left) and self.spent + 2 * self._left[0] / speed <= self._budget
        self.done = not (pays and in_time)


def knee(curve: Curve) -> int:
    """The smallest width within `WORTH` of the best throughput."""
    best = max(speed for _, speed in curve)
    return next(rows for rows, speed in curve if speed * WORTH >= best)


class Widths:
    """Measured widths by key, and where `kept` is given those that an earlier process measured. Safe from several
    threads; measuring happens on the caller's. `clock` gives seconds."""

    def __init__(self, *, limit: int, kept: Curves | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.curves: dict[object, Curve] = {}
        self._kept = kept
        self._lock = threading.Lock()
        self._clock = clock
        self._caps: dict[object, tuple[int, float]] = {}  # with the time at which it ends
        self._measuring: dict[object, Measuring] = {}

    def of(self, key: object, cost: Callable[[int], float]) -> int:
        """The width for `key`. Until its curve is whole each call measures some more of it with `cost(rows)` (seconds),
        and the answer is the best so far."""
        with self._lock:
            curve, cap = self.curves.get(key), self._cap(key)
        return min(knee(self._curve(key, cost) if curve is None else curve), cap)

    def lower(self, key: object, rows: int) -> None:
        """For `RECOVERY_S` a tick of `key` has at most `rows` rows (at least one): more did not fit into the memory."""
        with self._lock:
            self._caps[key] = (max(1, min(rows, self._cap(key))), self._clock() + RECOVERY_S)

    def _cap(self, key: object) -> int:
        rows, end = self._caps.get(key, (self.limit, 0.0))
        return rows if self._clock() < end else self.limit

    def _curve(self, key: object, cost: Callable[[int], float]) -> Curve:
        """What is known of a key's curve after measuring for a while."""
        measuring = self._measuring.get(key)
        if measuring is None and self._kept is not None and (kept := self._kept.load(key)) is not None:
            self.curves[key] = kept
            return kept
        if measuring is None:
            measuring = self._measuring[key] = Measuring(limit=self.limit)
        until = measuring.spent + PAUSE_S
        while not measuring.done and measuring.spent < until:
            measuring.go_on(cost)
        if measuring.done:
            del self._measuring[key]
            self.curves[key] = measuring.curve
            # Where memory ended the curve there may be more of it another time.
            if self._kept is not None and not measuring.cut_short:
                self._kept.save(key, measuring.curve)
        return measuring.curve
