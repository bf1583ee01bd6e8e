"""A generation that is being made, and those who watch: each is told what it has not heard yet, the latest of what
replaces itself, so that whoever stops reading costs nothing and comes back to the newest."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import datetime

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.generations import DrawnPicture
from marsam.core.errors import Cancelled, MarsamError, Unavailable
from marsam_generator import wire
from marsam_generator.requests import Wanted

SILENCE_S = 15.0
"""A stream that has nothing to say says so this often, so that nobody takes it for dead."""

Message = generator_pb2.GenerateResponse


@dataclass(eq=False, kw_only=True)
class Live:
    """Belongs to one event loop. Whoever makes it tells; `follow` may be called any number of times, at any time."""

    name: str
    wanted: Wanted
    create_time: datetime
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: int = 0
    leaving: bool = False
    closing: bool = False
    accepted: generator_pb2.Accepted | None = None
    progress: generator_pb2.StepProgress = field(init=False)
    pictures: list[tuple[DrawnPicture, bytes]] = field(default_factory=list)
    _looks: dict[int, generator_pb2.Preview] = field(default_factory=dict)
    _end: generator_pb2.Done | BaseException | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.progress = generator_pb2.StepProgress(step=0, steps=sum(one.taken for one in self.wanted.pictures))

    @property
    def detached(self) -> bool:
        """Whether it goes on when nobody watches."""
        return self.wanted.resolved.detach

    def why_stopped(self) -> MarsamError:
        """What to say of one that was stopped on the way."""
        if self.closing:
            return Unavailable("the generator is shutting down", reason="SHUTTING_DOWN", retry_after_s=1.0)
        return Cancelled("nobody waits for the generation any more", reason="GENERATION_ABANDONED")

    def accept(self, accepted: generator_pb2.Accepted) -> None:
        """It has its place."""
        self.accepted = accepted
        self._tell()

    def step(self, progress: generator_pb2.StepProgress) -> None:
        """Steps were taken."""
        self.progress = progress
        self._tell()

    def look(self, preview: generator_pb2.Preview) -> None:
        """There is a look at a picture; it takes the place of the one before."""
        self._looks[preview.index] = preview
        self._tell()

    def picture(self, picture: DrawnPicture, data: bytes) -> None:
        """A picture is done."""
        self._looks.pop(picture.index, None)
        self.pictures.append((picture, data))
        self._tell()

    def end(self, end: generator_pb2.Done | BaseException) -> None:
        """It is over: all pictures are there, or this is why not."""
        self._end = end
        self._tell()

    async def follow(self) -> AsyncGenerator[Message, None]:
        """All of it, from Accepted to Done. Raises what it ended with."""
        accepted, told, sent = False, generator_pb2.StepProgress(), 0
        looks: dict[int, generator_pb2.Preview] = {}
        while True:
            news = self._news
            if self.accepted is not None and not accepted:
                accepted = True
                yield Message(accepted=self.accepted)
            if accepted and self.progress is not told:
                told = self.progress
                yield Message(progress=told)
            for index in list(self._looks):
                look = self._looks.get(index)
                if look is not None and look is not looks.get(index):
                    looks[index] = look
                    yield Message(preview=look)
            while sent < len(self.pictures):
                picture, data = self.pictures[sent]
                sent += 1
                for message in wire.image_messages(picture, data):
                    yield message
            if isinstance(self._end, BaseException):
                raise self._end
            if self._end is not None:
                yield Message(done=self._end)
                return
            try:
                async with asyncio.timeout(SILENCE_S):
                    await news.wait()
            except TimeoutError:
                yield Message(progress=self.progress)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
