"""Letting the judge read pictures as they come, in batches, off the event loop."""

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from marsam.core.errors import Corrupt
from marsam_generator.evaluation.drawing import Shot
from marsam_generator.evaluation.judges import Judge, Readings
from marsam_generator.evaluation.report import thumbnail
from marsam_generator.evaluation.results import Answer, Picture

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Print:
    """A picture on its way to the judge. The judge sees the bytes only, never the shot."""

    shot: Shot
    digest: str
    data: bytes


class ReadingDesk:
    """Takes prints from `queue` (None ends it) and collects what the judge reads, and a thumbnail of each.

    The queue is bounded: whoever draws faster than the judge reads waits, so memory stays small.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.queue: asyncio.Queue[Print | None] = asyncio.Queue(maxsize=2 * BATCH)
        self.pictures: list[Picture] = []
        self.thumbnails: dict[str, bytes] = {}
        self.seconds = 0.0

    async def work(self) -> None:
        """Read until the queue ends."""
        loop = asyncio.get_running_loop()
        ended = False
        while not ended:
            waiting = [await self.queue.get()]
            while waiting[-1] is not None and len(waiting) < BATCH and not self.queue.empty():
                waiting.append(self.queue.get_nowait())
            ended = waiting[-1] is None
            batch = [one for one in waiting if one is not None]
            if batch:
                began = loop.time()
                self._keep(batch, await asyncio.to_thread(self._read, batch))
                self.seconds += loop.time() - began

    def _read(self, batch: Sequence[Print]) -> tuple[list[Readings], list[bytes]]:
        images = [_decode(one) for one in batch]
        return self._judge.read(images), [thumbnail(image) for image in images]

    def _keep(self, batch: Sequence[Print], read: tuple[list[Readings], list[bytes]]) -> None:
        for one, readings, small in zip(batch, *read, strict=True):
            self.thumbnails[one.digest] = small
            self.pictures.append(
                Picture(
                    model=one.shot.model,
                    prompt=one.shot.prompt,
                    language=one.shot.language,
                    seed=one.shot.seed,
                    digest=one.digest,
                    size=len(one.data),
                    answers={
                        name: Answer(value=reading.value, probability=reading.probability)
                        for name, reading in readings.items()
                    },
                )
            )


def _decode(one: Print) -> Image.Image:
    try:
        with Image.open(io.BytesIO(one.data), formats=["PNG"]) as image:
            return image.convert("RGB")
    except (OSError, ValueError) as error:
        raise Corrupt(f"picture {one.digest} cannot be decoded: {error}", reason="PICTURE_UNREADABLE") from error
