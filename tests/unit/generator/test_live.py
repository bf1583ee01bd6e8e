"""Those who watch a generation: each hears what is new, the latest of what replaces itself, and memory stays flat."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from marsam_generator import live as module
from marsam_generator.live import Live

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.files import FileRef
from marsam.catalog.generations import DrawnPicture
from marsam.core.errors import Cancelled


class Asked:
    """What is asked of a `Wanted`."""

    pictures = ()
    resolved = generator_pb2.GenerateRequest()


@pytest.fixture
def live() -> Live:
    wanted: Any = Asked()
    return Live(name="projects/p/generations/01kaxxxxxxxxxxxxxxxxxxxxxx", wanted=wanted, create_time=datetime.now(UTC))


def said(message: generator_pb2.GenerateResponse) -> Any:
    kind = message.WhichOneof("event")
    return kind, getattr(message, kind).step if kind in ("progress", "preview") else None


def look(step: int, *, index: int = 0) -> generator_pb2.Preview:
    return generator_pb2.Preview(index=index, step=step, steps=99, data=bytes([step]))


def step(done: int) -> generator_pb2.StepProgress:
    return generator_pb2.StepProgress(step=done, steps=99)


async def test_a_slow_reader_comes_back_to_the_newest(live: Live) -> None:
    live.accept(generator_pb2.Accepted())
    messages = live.follow()
    assert said(await anext(messages)) == ("accepted", None)
    for done in range(1, 50):
        live.step(step(done))
        live.look(look(done))
        live.look(look(done, index=1))
    assert len(live._looks) == 2
    assert [said(await anext(messages)) for _ in range(3)] == [("progress", 49), ("preview", 49), ("preview", 49)]
    live.step(step(50))
    assert said(await anext(messages)) == ("progress", 50)


async def test_a_look_at_a_picture_that_is_done_is_not_told_and_pictures_all_are(live: Live) -> None:
    live.accept(generator_pb2.Accepted())
    for index in range(2):
        live.look(look(1, index=index))
        file = FileRef(path=f"{index}.png", digest="sha256:" + "0" * 64, size=3, media_type="image/png")
        live.picture(DrawnPicture(index=index, seed=1, width=8, height=8, file=file), b"abc")
    live.end(generator_pb2.Done())
    for _ in range(2):  # as often as somebody asks
        kinds = [said(message)[0] async for message in live.follow()]
        assert kinds == ["accepted", "progress", "image", "chunk", "image", "chunk", "done"]


async def test_silence_is_broken(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.02)
    live.accept(generator_pb2.Accepted())
    messages = live.follow()
    assert [said(await anext(messages)) for _ in range(4)] == [("accepted", None), *[("progress", 0)] * 3]


async def test_everybody_hears_how_it_ended(live: Live) -> None:
    async def heard(messages: AsyncIterator[Any]) -> None:
        async for _ in messages:
            pass

    watching = [asyncio.create_task(heard(live.follow())) for _ in range(3)]
    await asyncio.sleep(0)
    live.end(Cancelled("no"))
    ends = await asyncio.gather(*watching, return_exceptions=True)
    assert all(isinstance(end, Cancelled) for end in ends)
