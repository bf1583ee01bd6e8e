"""Who may wait: a bound on the work in flight in predicted seconds, and how long it will take, told to everybody."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from marsam.core.errors import Deadline, Exhausted
from marsam_generator.engine.pace import Kind, Pace

DOUBT = 1.5
"""A deadline is hopeless when the prediction is this many times too long: on a quiet machine predictions are nearer."""
FRESH_S = 60.0
"""A pace that was measured longer ago refuses nobody while nothing is in flight: who is let in measures it again."""


@dataclass(eq=False, kw_only=True)
class Place:
    """A drawing's place: `ahead` pictures were in flight before it; it puts `rows` rows into each of `steps` steps, and
    `row_steps` are still to be done for it. Its holder sets `begun` and lowers `left`, the share that is to be done.
    """

    kind: Kind
    tenant: str
    pictures: int
    rows: int
    steps: int
    row_steps: int
    ahead: int = 0
    left: float = 1.0
    begun: bool = False


class Admission:
    """One per process, because all bases share the device. Thread-safe: ticks report from the loops' threads.

    At most `seconds` of predicted work are let in, and while nothing was measured at most `pictures` pictures; but a
    tenant that has less than its even share of that is let in all the same. `lanes` decode side by side.
    """

    def __init__(
        self, *, seconds: float, pictures: int, lanes: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._limit = pictures
        self._lanes = lanes
        self._clock = clock
        self._pace = Pace(clock=clock)
        self._places: set[Place] = set()
        self._prices: dict[Kind, float] = {}
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
            return sum(self._work(place) for place in self._places)

    @contextmanager
    def enter(self, place: Place, *, deadline: float | None = None) -> Iterator[Place]:
        """Hold a place inside the block; `deadline` is a monotonic time.

        Raises `Exhausted` (QUEUE_FULL) with the time after which to try again, `Deadline` (DEADLINE_HOPELESS) when the
        prediction is far beyond it.
        """
        with self._lock:
            place.ahead = sum(other.pictures for other in self._places)
            self._places.add(place)
            self._prices.clear()
        try:
            with self._lock:
                self._check_room(place)
                if deadline is not None:
                    self._check_deadline(place, deadline - self._clock())
            yield place
        finally:
            with self._lock:
                self._places.discard(place)
                self._prices.clear()

    def observe(
        self, kind: Kind, *, rows: int, width: int, seconds: float, curve: Sequence[tuple[int, float]] = ()
    ) -> None:
        """Learn from a tick: its rows, the widest that there may be, and what was measured at other widths."""
        with self._lock:
            self._pace.learn(kind, curve)
            self._pace.observe(kind, rows=rows, width=width, seconds=seconds)
            self._prices.clear()

    def observe_decode(self, kind: Kind, seconds: float) -> None:
        """Learn from a picture that was decoded."""
        with self._lock:
            self._pace.observe_decode(kind, seconds)

    def until_first_step(self, place: Place) -> float:
        """Predicted seconds until a place is served, 0 when unknown: those who have less to do go before it, as long as
        they do; where all have room in a tick it waits for the running one."""
        with self._lock:
            others = self._others(place)
            if not others:
                return 0.0
            together = sum(other.rows for other in others if other.kind == place.kind)
            tick = self._pace.tick(place.kind, max(1, min(together, self._pace.width(place.kind))))
            alike = all(other.kind == place.kind for other in others)
            if alike and together + place.rows <= self._pace.width(place.kind):
                return tick
            own = self._work(place)
            first = sum(work for other in others if (work := self._work(other)) <= own)
            # Waiting makes urgent: after as many ticks as it has steps nobody is before it any more.
            return tick + min(first, self._before(place), place.steps * tick)

    def until_last_picture(self, place: Place) -> float:
        """Predicted seconds until the last picture of a place, 0 when unknown."""
        with self._lock:
            return self._left(place)

    def _left(self, place: Place) -> float:
        """Its own work at the pace of shared ticks, and what others do meanwhile: of its own tenant each as much as
        this one, of other tenants all together as much. Never less than its steps take when it is alone."""
        width = self._pace.width(place.kind)
        ticks = -(-place.rows // width)
        alone = place.steps * place.left * ticks * self._pace.tick(place.kind, min(place.rows, width))
        decode = self._pace.decode(place.kind) * -(-place.pictures // self._lanes)
        return max(alone, self._work(place) + self._before(place)) + decode

    def _before(self, place: Place) -> float:
        own = self._work(place)
        mine, theirs = 0.0, defaultdict[str, float](float)
        for other in self._others(place):
            if other.tenant == place.tenant:
                mine += min(self._work(other), own)
            else:
                theirs[other.tenant] += self._work(other)
        return mine + sum(min(work, own) for work in theirs.values())

    def _others(self, place: Place) -> list[Place]:
        return [other for other in self._places if other is not place]

    def _work(self, place: Place) -> float:
        """Seconds that a place's rows take in full ticks, or in ones as wide as all who are there make them."""
        price = self._prices.get(place.kind)
        if price is None:
            together = sum(other.rows for other in self._places if other.kind == place.kind)
            rows = max(1, min(self._pace.width(place.kind), together))
            price = self._prices[place.kind] = self._pace.tick(place.kind, rows) / rows
        return place.row_steps * place.left * price

    def _check_room(self, place: Place) -> None:
        others = self._others(place)
        tenants = len({other.tenant for other in self._places})
        own = [other for other in others if other.tenant == place.tenant]
        work = sum(map(self._work, others))
        if work >= self._seconds and sum(map(self._work, own)) >= self._seconds / tenants:
            raise self._full(
                f"{work:.0f} seconds of work are in flight and {self._seconds:.0f} may be", work - self._seconds
            )
        if place.ahead + place.pictures > self._limit and (
            sum(other.pictures for other in own) + place.pictures > self._limit / tenants
        ):
            # Room for these pictures is there when that share of what is in flight has been drawn.
            share = min(1.0, (place.ahead + place.pictures - self._limit) / max(place.ahead, 1))
            raise self._full(
                f"{place.ahead} pictures are in flight and {self._limit} may be; {place.pictures} more do not fit",
                work * share,
            )

    @staticmethod
    def _full(message: str, retry_after_s: float) -> Exhausted:
        return Exhausted(
            message,
            reason="QUEUE_FULL",
            resource="generation queue",
            remedy="try again later, or ask for fewer pictures at once",
            retry_after_s=max(0.5, round(retry_after_s, 1)),
        )

    def _check_deadline(self, place: Place, left: float) -> None:
        if len(self._places) == 1 and self._pace.age(place.kind) > FRESH_S:
            return
        predicted = self._left(place)
        if predicted > DOUBT * left:
            raise Deadline(
                f"this would take about {predicted:.1f} seconds and {max(left, 0.0):.1f} are left",
                reason="DEADLINE_HOPELESS",
                remedy="give it more time, or ask for fewer steps, fewer pictures or a smaller size",
            )
