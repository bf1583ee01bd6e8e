"""A job as a stream: where it stands, what happens, a bookmark when nothing does, and how it ended.

The token of the last message of an update goes on after it; that of any earlier one repeats the update. So a caller who
breaks off in the middle loses nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from marsam.core.errors import Unavailable
from marsam.jobs.progress import Event
from marsam.jobs.store import JobStore
from marsam.jobs.watch import watch
from marsam.rpc.wire.messages import timestamp

M = TypeVar("M", bound=Message)
T = TypeVar("T")

PAUSE_S = 15.0
"""A stream that has nothing new says so this often, so that nobody takes it for dead."""


@dataclass(frozen=True, kw_only=True)
class Telling(Generic[M]):
    """How one kind of job is told. `message` has the fields `resume_token`, `snapshot` and `bookmark`.

    `snapshot()` gives the job as a resource and the number of the transition where it stands; `event(event, attempt)` a
    message, None for what this API has no word for.
    """

    message: type[M]
    snapshot: Callable[[], Awaitable[tuple[Message, int]]]
    event: Callable[[Event, int], M | None]


async def told(
    store: JobStore,
    job_id: str,
    telling: Telling[M],
    *,
    token: str,
    stop: asyncio.Event,
    poll_s: float = 0.5,
    pause_s: float = PAUSE_S,
) -> AsyncIterator[M]:
    """Yield a snapshot (unless `token` goes on from an earlier watch), then every event and each change of state.

    The last message is a snapshot of the ended job, also when it had ended before: the first one then is of the same,
    and what happened lies between.

    Raises Missing, Expired, Invalid for a bad token, Unavailable (RECONNECT) when `stop` is set.
    """
    make: Callable[..., M] = telling.message
    shown = 0
    if not token:
        snapshot, shown = await telling.snapshot()
        yield make(snapshot=snapshot)
    async for update in with_pauses(watch(store, job_id, token=token, poll_s=poll_s), stop=stop, pause_s=pause_s):
        if update is None:
            yield make(resume_token=token, bookmark=timestamp(store.clock.now()))
            continue
        messages = [message for event in update.events if (message := telling.event(event, update.attempt)) is not None]
        moved = update.transition
        if moved is not None and (moved.seq > shown or moved.state.terminal):
            snapshot, shown = await telling.snapshot()
            messages.append(make(snapshot=snapshot))
        said: list[Any] = messages or [make(bookmark=timestamp(store.clock.now()))]
        for message in said[:-1]:
            message.resume_token = token
            yield message
        token = said[-1].resume_token = update.token
        yield said[-1]


async def with_pauses(
    updates: AsyncIterator[T], *, stop: asyncio.Event, pause_s: float = PAUSE_S
) -> AsyncIterator[T | None]:
    """Yield `updates` to their end, and None whenever none came for `pause_s`.

    Raises Unavailable (RECONNECT) when `stop` is set while waiting for one: a stream that ends with a word does not
    hold a stopping service up, nor break off.
    """
    stopping = asyncio.create_task(stop.wait(), name="watch.stop")
    following: asyncio.Task[T | None] | None = None
    try:
        while True:
            following = following or asyncio.create_task(_next(updates), name="watch.next")
            await asyncio.wait({following, stopping}, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                update, following = following.result(), None
                if update is None:
                    return
                yield update
            elif stopping.done():
                raise Unavailable(
                    "the service stops",
                    reason="RECONNECT",
                    remedy="watch again, with the last token if there was one: the work goes on",
                    retry_after_s=1.0,
                )
            else:
                yield None
    finally:
        tasks = {task for task in (following, stopping) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _next(updates: AsyncIterator[T]) -> T | None:
    return await anext(updates, None)
