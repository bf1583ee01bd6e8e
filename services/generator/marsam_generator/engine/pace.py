"""What ticks cost, learnt from those that were: by kind of picture and by rows."""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

_WEIGHT = 0.2
"""Weight of the newest tick in the running mean of its width."""


class Kind(NamedTuple):
    """Pictures that cost the same: digest of the model, sides in pixels, and whether their bits are promised."""

    model: str
    sides: tuple[int, int]
    exact: bool


class _Known:
    """Of one kind: seconds of a tick by its rows, the widest that there may be, when the last was, seconds a decode."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self.width = 1
        self.at = 0.0
        self.decode = 0.0


class Pace:
    """Not thread-safe. Zero means that nothing is known."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[Kind, _Known] = {}

    def learn(self, kind: Kind, curve: Sequence[tuple[int, float]]) -> None:
        """Take a measured curve of (rows, rows per second), where no tick has told better."""
        if curve:
            known = self._known.setdefault(kind, _Known())
            for rows, speed in curve:
                known.seconds.setdefault(rows, rows / speed)

    def observe(self, kind: Kind, *, rows: int, width: int, seconds: float) -> None:
        """Learn from a tick of `rows` rows where there may be `width`."""
        known = self._known.setdefault(kind, _Known())
        before = known.seconds.get(rows, seconds)
        known.seconds[rows] = (1 - _WEIGHT) * before + _WEIGHT * seconds
        known.width, known.at = width, self._clock()

    def observe_decode(self, kind: Kind, seconds: float) -> None:
        """Learn from a picture that was decoded."""
        known = self._known.setdefault(kind, _Known())
        known.decode = (1 - _WEIGHT) * (known.decode or seconds) + _WEIGHT * seconds

    def width(self, kind: Kind) -> int:
        """Rows that a tick of a kind may have, at least 1."""
        found = self._find(kind)
        return found[0].width if found else 1

    def tick(self, kind: Kind, rows: int) -> float:
        """Seconds of a tick of `rows` rows; between known widths, and beyond the widest, as a straight line says."""
        found = self._find(kind)
        return _at(found[0].seconds, rows) * found[1] if found else 0.0

    def decode(self, kind: Kind) -> float:
        """Seconds that decoding a picture takes."""
        found = self._find(kind)
        return found[0].decode * found[1] if found else 0.0

    def age(self, kind: Kind) -> float:
        """Seconds since a tick of this kind, or of the one that stands for it."""
        found = self._find(kind)
        return self._clock() - found[0].at if found else float("inf")

    def _find(self, kind: Kind) -> tuple[_Known, float] | None:
        """What is known of a kind, else of the one of its model that is nearest in size, and how many times as large
        this one is."""
        if (own := self._known.get(kind)) is not None and own.seconds:
            return own, 1.0
        others = [other for other, known in self._known.items() if other.model == kind.model and known.seconds]
        if not others:
            return None
        area = kind.sides[0] * kind.sides[1]
        nearest = min(others, key=lambda one: (abs(one.sides[0] * one.sides[1] - area), one.exact != kind.exact))
        return self._known[nearest], area / (nearest.sides[0] * nearest.sides[1])


def _at(seconds: dict[int, float], rows: int) -> float:
    if rows in seconds:
        return seconds[rows]
    widths = sorted(seconds)
    place = bisect_left(widths, rows)
    if place == 0:
        return seconds[widths[0]]
    if place == len(widths):
        return seconds[widths[-1]] * rows / widths[-1]
    below, above = widths[place - 1], widths[place]
    share = (rows - below) / (above - below)
    return (1 - share) * seconds[below] + share * seconds[above]
