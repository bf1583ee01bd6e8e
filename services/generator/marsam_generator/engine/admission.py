"""Who may wait: a bound on the pictures in flight, and how long it will take, told to whoever is turned away."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from marsam.core.errors import Exhausted

_WEIGHT = 0.1
"""Weight of the newest tick in the running mean of the cost of a row."""


@dataclass(eq=False, kw_only=True)
class Place:
    """A drawing's place: `ahead` pictures were in flight before it, `row_steps` are still to be done for it.

    Its holder sets `begun` and lowers `row_steps` as ticks serve it.
    """

    ahead: int
    pictures: int
    row_steps: float
    begun: bool = False


class Admission:
    """One per process, because all bases share the device. Thread-safe: ticks report from the loops' threads."""

    def __init__(self, *, limit: int) -> None:
        self.limit = limit
        self._places: set[Place] = set()
        self._row_seconds = 0.0
        self._lock = threading.Lock()

    @property
    def pictures(self) -> int:
        """Pictures in flight."""
        with self._lock:
            return sum(place.pictures for place in self._places)

    @property
    def waiting(self) -> int:
        """Pictures in flight that no tick has served yet."""
        with self._lock:
            return sum(place.pictures for place in self._places if not place.begun)

    @property
    def seconds_of_work(self) -> float:
        """What is in flight, in seconds at the speed measured so far; 0 before the first tick."""
        with self._lock:
            return self._work()

    @contextmanager
    def enter(self, *, pictures: int, row_steps: int) -> Iterator[Place]:
        """Hold a place inside the block. Raises `Exhausted` (QUEUE_FULL) with the time after which to try again."""
        with self._lock:
            ahead = sum(place.pictures for place in self._places)
            if ahead + pictures > self.limit:
                # Room for these pictures is there when that share of what is in flight has been drawn.
                share = min(1.0, (ahead + pictures - self.limit) / max(ahead, 1))
                raise Exhausted(
                    f"{ahead} pictures are in flight and {self.limit} may be; {pictures} more do not fit",
                    reason="QUEUE_FULL",
                    resource="generation queue",
                    remedy="try again later, or ask for fewer pictures at once",
                    retry_after_s=max(0.5, round(self._work() * share, 1)),
                )
            place = Place(ahead=ahead, pictures=pictures, row_steps=row_steps)
            self._places.add(place)
        try:
            yield place
        finally:
            with self._lock:
                self._places.discard(place)

    def observe(self, *, rows: int, seconds: float) -> None:
        """Learn the cost of a row from a tick."""
        with self._lock:
            cost = seconds / rows
            self._row_seconds = cost if not self._row_seconds else (1 - _WEIGHT) * self._row_seconds + _WEIGHT * cost

    def _work(self) -> float:
        return self._row_seconds * sum(place.row_steps for place in self._places)
