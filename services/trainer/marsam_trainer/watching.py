"""A run as a stream of messages."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from marsam.api.trainer.v1 import trainer_pb2
from marsam.core.clock import parse_time
from marsam.jobs.states import State
from marsam.rpc.server.watching import PAUSE_S, Telling, told
from marsam.rpc.wire.messages import timestamp
from marsam_trainer.queue import Queue
from marsam_trainer.runs import Runs
from marsam_trainer.wire.runs import file_messages, progress_message, run_message

Message = trainer_pb2.WatchRunResponse

_LINE = 4000


class Watcher:
    """Answers watches; holds nothing between them."""

    def __init__(self, runs: Runs, queue: Queue, *, draining: asyncio.Event, poll_s: float) -> None:
        self._runs = runs
        self._queue = queue
        self._draining = draining
        self._poll_s = poll_s

    async def watch(
        self, project: str, run_id: str, *, token: str, bookmark_s: float = PAUSE_S
    ) -> AsyncIterator[Message]:
        """See `marsam.rpc.server.watching.told`."""

        async def snapshot() -> tuple[trainer_pb2.Run, int]:
            view = await self._runs.view(project, run_id)
            place = self._queue.place(project, run_id) if view.head.state is State.PENDING else 0
            return run_message(view, queue_position=place), view.head.seq

        telling = Telling(message=Message, snapshot=snapshot, event=_told)
        store = self._runs.store(project)
        messages = told(
            store, run_id, telling, token=token, stop=self._draining, poll_s=self._poll_s, pause_s=bookmark_s
        )
        async for message in messages:
            yield message


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
