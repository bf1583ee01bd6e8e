"""Request ids: the same create sent twice happens once, for ever."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from marsam.core.clock import Clock
from marsam.core.errors import Exists, Invalid, Missing
from marsam.core.ids import digest_of, new_ulid
from marsam.core.records import dump, load
from marsam.store import keys
from marsam.store.blobs import Blobs, create_surely


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What a request id led to: `result` is the id that was given out, `content` the digest of what was asked."""

    SCHEMA: ClassVar[str] = "marsam.request/1"

    request_id: str
    scope: str
    content: str
    result: str
    writer_id: str
    at: datetime


async def remember(
    blobs: Blobs, project: str, *, scope: str, request_id: str, content: bytes, result: str, clock: Clock
) -> tuple[str, bool]:
    """Bind `request_id` within `scope` (the method) to `result`, or return what it was bound to before.

    `content` is what the caller asked, in canonical bytes and without anything the service chose. Returns (the bound
    result, whether it is new). Call it before the thing is made, and make the thing under the returned id: a caller
    that comes again after a crash then completes it.

    Raises Exists (REQUEST_ID_REUSED) when the id stands for other content, Invalid when it is empty or too long.
    """
    if not 1 <= len(request_id) <= 128:
        raise Invalid(f"request_id must have 1 to 128 characters, got {len(request_id)}", field="request_id")
    record = Remembered(
        request_id=request_id,
        scope=scope,
        content=digest_of(content),
        result=result,
        writer_id=new_ulid(clock),
        at=clock.now(),
    )
    key = keys.request(project, scope, request_id)
    try:
        await create_surely(blobs, key, dump(record))
        return result, True
    except Exists:
        return await _bound(blobs, key, record.content, request_id), False


async def recall(blobs: Blobs, project: str, *, scope: str, request_id: str, content: bytes) -> str | None:
    """Return what `request_id` is bound to within `scope`, None when it is free or empty. Changes nothing.

    Ask before checking a request against things that may be gone when it comes again. Raises Exists as `remember`.
    """
    if not request_id:
        return None
    try:
        return await _bound(blobs, keys.request(project, scope, request_id), digest_of(content), request_id)
    except Missing:
        return None


async def _bound(blobs: Blobs, key: str, content: str, request_id: str) -> str:
    first = load(Remembered, await blobs.get(key), what=f"request '{request_id}'")
    if first.content != content:
        raise Exists(
            f"request_id '{request_id}' was used for another {first.scope} at {first.at:%Y-%m-%d %H:%M:%S} UTC",
            reason="REQUEST_ID_REUSED",
            field="request_id",
            resource=first.result,
            remedy="use a fresh request_id for a new request",
        )
    return first.result
