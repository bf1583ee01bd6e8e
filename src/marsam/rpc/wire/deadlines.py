"""Deadlines that flow on: a service calling another spends its caller's time, not its own."""

from typing import Protocol

from marsam.core.errors import Deadline

# Kept back from what is left, so that our answer still reaches the caller in time.
_MARGIN_S = 0.05


class TimeLimited(Protocol):
    """What a servicer context knows of its deadline."""

    def time_remaining(self) -> float | None:
        """Seconds left, or None when the caller set no deadline."""
        ...


def child_deadline(context: TimeLimited, *, at_most: float | None = None) -> float | None:
    """Seconds to give a call made on behalf of `context`, None when nobody limits it.

    Raises Deadline when nothing is left: starting the call would be work nobody waits for.
    """
    remaining = context.time_remaining()
    if remaining is None:
        return at_most
    left = remaining - _MARGIN_S
    if left <= 0:
        raise Deadline("the caller's deadline has passed")
    return left if at_most is None else min(left, at_most)
