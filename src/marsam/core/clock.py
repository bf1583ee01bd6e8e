"""Time as a parameter, so that tests own it."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, monotonic time for waiting."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the wall time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()


def format_time(at: datetime) -> str:
    """Return RFC 3339 in UTC with microseconds (2026-11-25T01:02:03.000004Z): of fixed width, so text sorts as time."""
    if at.tzinfo is None:
        raise ValueError("a time without zone is ambiguous")
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """Return the aware UTC time that RFC 3339 `text` names; ValueError when it is not one."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"time '{text}' has no zone")
    return at.astimezone(UTC)
