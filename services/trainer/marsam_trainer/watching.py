"""A run as a stream: where it stands, then what changes, a bookmark when nothing does, until it is over.

The resume token of the last message of an update goes on after it; that of any earlier one repeats the update. So a
caller who breaks off in the middle loses nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from marsam.api.trainer.v1 import trainer_pb2
from marsam.core.clock import parse_time
from marsam.core.errors import Unavailable
from marsam.jobs.states import State
from marsam.jobs.watch import Update, watch
from marsam_trainer.convert import file_messages, progress_message, run_message, timestamp
from marsam_trainer.queue import Queue
from marsam_trainer.runs import Runs

Message = trainer_pb2.WatchRunResponse

BOOKMARK_S = 15.0
_LINE = 4000


class Watcher:
    """Answers watches; holds nothing between them."""

    def __init__(self, runs: Runs, queue: Queue, *, draining: asyncio.Event, poll_s: float) -> None:
        self._runs = runs
        self._queue = queue
        self._draining = draining
        self._poll_s = poll_s

    async def watch(
        self, project: str, run_id: str, *, token: str, bookmark_s: float = BOOKMARK_S
    ) -> AsyncIterator[Message]:
        """Yield messages until the run is over.

        Raises Missing, Expired, Invalid for a bad token, Unavailable when the service stops: call again with the last
        token.
        """
        shown = 0
        if not token:
            snapshot = await self._snapshot(project, run_id)
            shown = snapshot.history[-1].sequence
            yield Message(snapshot=snapshot)
        updates = watch(self._runs.store(project), run_id, token=token, poll_s=self._poll_s)
        async for update in _with_pauses(updates, bookmark_s, stop=self._draining):
            if update is None:
                yield Message(resume_token=token, bookmark=timestamp(self._runs.clock.now()))
                continue
            messages = [message for event in update.events if (message := _told(event, update.attempt)) is not None]
            if update.transition is not None and update.transition.seq > shown:
                shown = update.transition.seq
                messages.append(Message(snapshot=await self._snapshot(project, run_id)))
            if not messages:
                messages = [Message(bookmark=timestamp(self._runs.clock.now()))]
            for message in messages[:-1]:
                message.resume_token = token
                yield message
            token = messages[-1].resume_token = update.token
            yield messages[-1]

    async def _snapshot(self, project: str, run_id: str) -> trainer_pb2.Run:
        view = await self._runs.view(project, run_id)
        place = self._queue.place(project, run_id) if view.head.state is State.PENDING else 0
        return run_message(view, queue_position=place)


async def _with_pauses(
    updates: AsyncIterator[Update], pause_s: float, *, stop: asyncio.Event
) -> AsyncIterator[Update | None]:
    """The updates, and None whenever none came for `pause_s`. Raises Unavailable (RECONNECT) when `stop` is set."""
    stopping = asyncio.create_task(stop.wait(), name="watch.stop")
    following: asyncio.Task[Update | None] | None = None
    try:
        while True:
            following = following or asyncio.create_task(_next(updates), name="watch.next")
            await asyncio.wait({following, stopping}, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                update = following.result()
                following = None
                if update is None:
                    return
                yield update
            elif stopping.done():
                raise Unavailable(
                    "the service stops", reason="RECONNECT", remedy="watch again with the last token", retry_after_s=1.0
                )
            else:
                yield None
    finally:
        tasks = {task for task in (following, stopping) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _next(updates: AsyncIterator[Update]) -> Update | None:
    return await anext(updates, None)


def _told(event: Mapping[str, Any], attempt: int) -> Message | None:
    """An event as a message; None for kinds that this API has no word for."""
    match event.get("kind"):
        case "progress":
            return Message(progress=progress_message(event))
        case "checkpoint":
            found = trainer_pb2.Checkpoint(attempt=attempt, step=event["step"], size_bytes=event.get("bytes", 0))
            if isinstance(event.get("at"), str):
                found.create_time.CopyFrom(timestamp(parse_time(event["at"])))
            return Message(checkpoint=found)
        case "preview":
            return Message(preview=trainer_pb2.Preview(step=event["step"], images=file_messages(event.get("files"))))
        case "log":
            return Message(log_line=str(event.get("message", ""))[:_LINE])
        case _:
            return None
