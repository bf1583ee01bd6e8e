"""What a running attempt tells: a heartbeat that is overwritten, and events in numbered segments that stay.

Both lie below the attempt's own folder, so an attempt that lives on after it was replaced disturbs nobody.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from marsam.core.errors import Conflict, Corrupt, Missing
from marsam.core.records import canonical
from marsam.jobs.store import JobStore
from marsam.store import keys
from marsam.store.numbered import NumberedLog

Event = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The last sign of life of an attempt: what it said, when, and how long ago, by the store's own clock."""

    attempt: int
    payload: Mapping[str, Any]
    modified: datetime
    age_s: float


async def heartbeat(store: JobStore, job_id: str, attempt: int, payload: Mapping[str, Any]) -> None:
    """Show that `attempt` is alive; every 10 seconds or so, by its only writer."""
    await store.blobs.put(keys.heartbeat(store.project, store.kind, job_id, attempt), canonical(payload))


async def read_heartbeat(store: JobStore, job_id: str, attempt: int) -> Heartbeat | None:
    """Return the last sign of life of `attempt`, None when there was none yet."""
    key = keys.heartbeat(store.project, store.kind, job_id, attempt)
    try:
        stat = await store.blobs.stat(key)
        payload = json.loads(await store.blobs.get(key))
    except Missing:
        return None
    except ValueError as error:
        raise Corrupt(f"heartbeat of {job_id} is not JSON: {error}", reason="MANIFEST_UNREADABLE") from error
    return Heartbeat(attempt=attempt, payload=payload, modified=stat.modified, age_s=stat.age_s)


async def append_events(store: JobStore, job_id: str, attempt: int, segment: int, events: Sequence[Event]) -> None:
    """Write segment `segment` (from 1, no gaps) of an attempt's events, at most 1 MiB of JSON.

    Raises Conflict (SEGMENT_TAKEN) when the segment holds other events: two programs run as one attempt.
    """
    log = NumberedLog(store.blobs, keys.events(store.project, store.kind, job_id, attempt))
    try:
        await log.append(segment - 1, b"".join(canonical(event) + b"\n" for event in events))
    except Conflict as error:
        raise Conflict(f"event segment {segment} of {job_id}, attempt {attempt}, was written by another program",
                       reason="SEGMENT_TAKEN", resource=job_id) from error  # fmt: skip


async def read_events(store: JobStore, job_id: str, attempt: int, start: int = 1) -> tuple[list[dict[str, Any]], int]:
    """Return (the events of an attempt from segment `start` on, the segment to ask for next)."""
    log = NumberedLog(store.blobs, keys.events(store.project, store.kind, job_id, attempt))
    segments = await log.read_all(start)
    try:
        events = [json.loads(line) for segment in segments for line in segment.splitlines()]
    except ValueError as error:
        raise Corrupt(f"events of {job_id} are not JSON: {error}", reason="MANIFEST_UNREADABLE") from error
    return events, start + len(segments)
