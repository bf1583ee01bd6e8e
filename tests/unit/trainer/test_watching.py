"""A watch over a store in which nothing happens, then something, then the end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from marsam_trainer.queue import Queue
from marsam_trainer.runs import Runs
from marsam_trainer.watching import Message, Watcher

from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock
from marsam.core.errors import Unavailable
from marsam.core.records import dump
from marsam.jobs.progress import append_events
from marsam.jobs.states import State
from marsam.store.open import open_store
from marsam.telemetry import Meter


def spec(run_id: str) -> bytes:
    digest = f"sha256:{'0' * 64}"
    return dump(
        RunSpec(
            name=f"projects/p/runs/{run_id}", base="projects/p/models/b", base_digest=digest,
            dataset_version="projects/p/datasets/d/versions/v", dataset_digest=digest, method="lora",
            output_model_id="m", steps=1, batch_size=1, learning_rate=1.0, resolution=64, seed=0,
        )
    )  # fmt: skip


async def news(messages: AsyncIterator[Message], token: str) -> Message:
    """The next message that goes beyond `token`; on a busy machine there may be any number of pauses before it."""
    while True:
        message = await anext(messages)
        if message.WhichOneof("event") != "bookmark" or message.resume_token != token:
            return message


async def test_bookmarks_fill_the_pauses_and_tokens_stand_for_whole_updates(tmp_path: Path) -> None:
    runs = Runs(open_store(str(tmp_path / "store")), SystemClock())
    jobs = runs.store("p")
    run_id, _ = await jobs.create(request=b"{}", request_id="", spec_for=spec)
    draining = asyncio.Event()
    queue = Queue(runs, meter=Meter(service="trainer", version="0"))
    watcher = Watcher(runs, queue, draining=draining, poll_s=0.02)
    messages = watcher.watch("p", run_id, token="", bookmark_s=0.15)
    first = await anext(messages)
    assert (first.snapshot.queue_position, first.snapshot.attempt) == (1, 0)
    second = await news(messages, "")
    assert (second.WhichOneof("event"), second.resume_token) == ("bookmark", "1.0.1")
    third = await anext(messages)
    assert (third.WhichOneof("event"), third.resume_token) == ("bookmark", "1.0.1")
    head = await jobs.append(run_id, await jobs.head(run_id), State.STARTING)
    moved = await news(messages, third.resume_token)
    assert moved.snapshot.attempt == 1
    told = [{"kind": "log", "message": f"line {n}"} for n in range(3)] + [{"kind": "unheard of"}]
    await append_events(jobs, run_id, 1, 1, told)
    lines = [await news(messages, moved.resume_token)] + [await anext(messages) for _ in range(2)]
    assert [line.log_line for line in lines] == ["line 0", "line 1", "line 2"]
    # Breaking off after the first two repeats all three: the update is whole only with its last message.
    assert [line.resume_token for line in lines] == ["2.1.1", "2.1.1", "2.1.2"]
    await jobs.append(run_id, head, State.FAILED, reason="BAD_SPEC", message="no")
    last = [await news(messages, lines[-1].resume_token)]
    assert [message async for message in messages] == []
    assert [message.snapshot.reason for message in last] == ["BAD_SPEC"]

    # Asked for when it is over, the same: the end first, so that it is known at once, then all that led to it, the end.
    whole = [message async for message in watcher.watch("p", run_id, token="")]
    told_of = [message.WhichOneof("event") for message in whole]
    assert told_of == ["snapshot", "log_line", "log_line", "log_line", "snapshot"]
    assert whole[0].snapshot == whole[-1].snapshot == last[-1].snapshot
    assert (whole[0].resume_token, whole[-1].resume_token) == ("", last[-1].resume_token)
    assert [message async for message in watcher.watch("p", run_id, token=whole[-1].resume_token)] == []

    other, _ = await jobs.create(request=b"{}", request_id="", spec_for=spec)
    stopped = watcher.watch("p", other, token="")
    await anext(stopped)
    draining.set()
    with pytest.raises(Unavailable) as caught:
        _ = [message async for message in stopped]
    assert caught.value.reason == "RECONNECT"
