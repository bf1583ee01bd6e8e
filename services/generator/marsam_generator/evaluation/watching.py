"""An evaluation as a stream: where it stands, then what changes, a bookmark when nothing does, until it is over."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from google.protobuf import timestamp_pb2

from marsam.api.generator.v1 import evaluation_pb2
from marsam.core.errors import Unavailable
from marsam.jobs.store import JobStore
from marsam.jobs.watch import Update, watch
from marsam_generator.evaluation.messages import progress_message

Message = evaluation_pb2.WatchEvaluationResponse

BOOKMARK_S = 15.0


async def watch_messages(
    jobs: JobStore,
    job_id: str,
    *,
    token: str,
    snapshot: Callable[[], Awaitable[evaluation_pb2.Evaluation]],
    draining: asyncio.Event,
    bookmark_s: float = BOOKMARK_S,
) -> AsyncIterator[Message]:
    """Yield messages until the evaluation is over. Each carries the token that goes on after it.

    Raises Missing; Expired or Invalid for a bad token; Unavailable when the service stops: go on with the last token.
    """
    if not token:
        yield Message(snapshot=await snapshot())
    updates = watch(jobs, job_id, token=token)
    stopping = asyncio.create_task(draining.wait(), name="watch.stop")
    following: asyncio.Task[Update | None] | None = None
    try:
        while True:
            following = following or asyncio.create_task(_next(updates), name="watch.next")
            await asyncio.wait({following, stopping}, timeout=bookmark_s, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                update, following = following.result(), None
                if update is None:
                    return
                token = update.token
                for message in await _told(update, snapshot):
                    message.resume_token = token
                    yield message
            elif stopping.done():
                raise Unavailable(
                    "the service stops", reason="RECONNECT", remedy="watch again with the last token", retry_after_s=1.0
                )
            else:
                yield Message(resume_token=token, bookmark=_now(jobs))
    finally:
        tasks = {task for task in (following, stopping) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _next(updates: AsyncIterator[Update]) -> Update | None:
    return await anext(updates, None)


async def _told(update: Update, snapshot: Callable[[], Awaitable[evaluation_pb2.Evaluation]]) -> list[Message]:
    """An update in messages: the newest progress of its events, and where the evaluation stands if that has changed."""
    progress = [event for event in update.events if event.get("kind") == "progress"]
    messages = [Message(progress=progress_message(progress[-1]))] if progress else []
    if update.transition is not None:
        messages.append(Message(snapshot=await snapshot()))
    return messages


def _now(jobs: JobStore) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(jobs.clock.now())
    return stamp
