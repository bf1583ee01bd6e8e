"""What a format's `layout(version)` yields."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A stored picture at a path of the export."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Content:
    """A file that the export itself makes."""

    path: str
    data: bytes
