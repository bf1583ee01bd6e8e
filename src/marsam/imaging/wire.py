"""The pipe between the pool and a worker: a JSON head and a payload, each preceded by its length.

Frame: `>II` (length of head, length of payload), head, payload.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

_LENGTHS = struct.Struct(">II")
PREFIX = _LENGTHS.size
MAX_HEAD = 64 * 1024


def pack(head: dict[str, Any], payload: bytes = b"") -> bytes:
    """One frame up to its payload: write this, then the payload (which is not copied here)."""
    encoded = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    return _LENGTHS.pack(len(encoded), len(payload)) + encoded


def lengths(prefix: bytes, *, max_payload: int) -> tuple[int, int]:
    """Lengths of head and payload. Raises ValueError when the sender is not to be believed."""
    head, payload = _LENGTHS.unpack(prefix)
    if head > MAX_HEAD or payload > max_payload:
        raise ValueError(f"a frame of {head} + {payload} bytes is over the limit")
    return head, payload


def parse_head(encoded: bytes) -> dict[str, Any]:
    head = json.loads(encoded)
    if not isinstance(head, dict):
        raise ValueError("a head must be a JSON object")
    return head


def receive(read: Callable[[int], bytes], *, max_payload: int) -> tuple[dict[str, Any], bytes] | None:
    """Blocking read of one frame from a file object's `read`; None at the end of the stream."""
    prefix = read(PREFIX)
    if len(prefix) < PREFIX:
        return None
    head, payload = lengths(prefix, max_payload=max_payload)
    return parse_head(read(head)), read(payload)
