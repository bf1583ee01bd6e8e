"""How many rows a tick may have: read from a curve that is measured on the device, once per latent shape.

Throughput grows with the batch until the device is full; past that knee a wider tick only makes everybody in it wait
longer.
"""

import threading
from collections.abc import Callable

from marsam_generator.engine.curves import Curve, Curves

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
WORTH = 1.05
"""A wider tick must give this much more throughput than the best narrower one."""
BUDGET_S = 2.0
"""What measuring one shape may cost; a device that needs longer for a few rows is full with few rows."""


def measure(cost: Callable[[int], float], *, limit: int, budget_s: float = BUDGET_S) -> list[tuple[int, float]]:
    """Rows per second at growing widths up to `limit`, until width stops paying or the budget is spent. `cost(rows)`
    runs a forward and gives its seconds.

    Returns (rows, rows per second) in order; the first width is always measured, and its failure raised.
    """
    curve: list[tuple[int, float]] = []
    last, spent = 0.0, 0.0
    for rows in [width for width in WIDTHS if width <= limit] or [1]:
        # A run takes about as long per row as the last one did; do not start one that cannot end in time.
        if curve and spent + 2 * rows / last > budget_s:
            break
        try:
            costs = [cost(rows) for _ in range(2)]
        except Exception:
            if not curve:
                raise
            break  # too wide for the memory; the narrower ones are known to fit
        spent += sum(costs)
        last = rows / max(min(costs), 1e-6)
        curve.append((rows, last))
        if len(curve) > 2 and all(speed < WORTH * curve[-3][1] for _, speed in curve[-2:]):
            break
    return curve


def knee(curve: Curve) -> int:
    """The smallest width within `WORTH` of the best throughput."""
    best = max(speed for _, speed in curve)
    return next(rows for rows, speed in curve if speed * WORTH >= best)


class Widths:
    """Measured widths by key, and where `kept` is given those that an earlier process measured. Safe from several
    threads; measuring happens on the caller's."""

    def __init__(self, *, limit: int, kept: Curves | None = None) -> None:
        self.limit = limit
        self.curves: dict[object, Curve] = {}
        self._kept = kept
        self._lock = threading.Lock()
        self._known: dict[object, int] = {}
        self._caps: dict[object, int] = {}

    def of(self, key: object, cost: Callable[[int], float]) -> int:
        """The width for `key`, measured with `cost(rows)` (seconds) when it is asked for the first time."""
        with self._lock:
            known, cap = self._known.get(key), self._caps.get(key, self.limit)
        if known is None:
            curve = self._curve(key, cost)
            with self._lock:
                self.curves[key] = curve
                known = self._known.setdefault(key, knee(curve))
        return min(known, cap)

    def lower(self, key: object, rows: int) -> None:
        """From now on a tick of `key` has at most `rows` rows (at least one): more did not fit into the memory."""
        with self._lock:
            self._caps[key] = max(1, min(rows, self._caps.get(key, self.limit)))

    def _curve(self, key: object, cost: Callable[[int], float]) -> Curve:
        if self._kept is not None and (kept := self._kept.load(key)) is not None:
            return kept
        failed = False

        def noted(rows: int) -> float:
            nonlocal failed
            failed = True
            seconds = cost(rows)
            failed = False
            return seconds

        curve = measure(noted, limit=self.limit)
        # Where memory ended the curve there may be more of it another time.
        if self._kept is not None and not failed:
            self._kept.save(key, curve)
        return curve
