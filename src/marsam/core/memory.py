"""What a long-lived process keeps in memory, and how that stays bounded."""

from typing import Any


def make_room(kept: dict[Any, Any], most: int) -> None:
    """Drop the entries of `kept` that came first until one more makes at most `most`; they can be found out again."""
    while len(kept) >= most:
        del kept[next(iter(kept))]
