"""Whose turn it is, by the time that was really spent: a deficit round robin that is charged after the work."""

from collections.abc import Collection
from typing import Generic, TypeVar

K = TypeVar("K")


class Turns(Generic[K]):
    """Those who wait, and the seconds that each had. Who had least is next, so none of n waits longer than the others
    take for a turn each.

    Who comes anew begins where the least served of those who wait stands: nobody is paid for having been away. Who
    leaves keeps what it had until the others have had as much, so coming back does not wipe it out.

    Source: Goyal, Vin and Cheng, Start-time Fair Queueing (1996), which bounds the lag by one turn of the dearest.
    """

    def __init__(self) -> None:
        self._had: dict[K, float] = {}
        self._waiting: set[K] = set()

    def wait(self, waiting: Collection[K]) -> None:
        """Who waits from now on."""
        coming = set(waiting)
        if coming == self._waiting:
            return
        staying = self._waiting & coming
        floor = min((self._had[key] for key in staying), default=0.0)
        known = {key: had for key, had in self._had.items() if key in coming or had > floor} if staying else {}
        self._had = known | {key: max(known.get(key, floor), floor) for key in coming}
        self._waiting = coming

    def had(self, key: K) -> float:
        """Seconds that one who waits had, counted as above."""
        return self._had[key]

    def first(self, among: Collection[K]) -> K:
        """The next of some who wait; among equals the first named."""
        return min(among, key=lambda key: self._had[key])

    def charge(self, key: K, seconds: float) -> None:
        """What a turn cost one who waits."""
        self._had[key] += seconds
