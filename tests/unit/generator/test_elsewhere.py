"""What is known of a generation that another replica makes, while it ends there."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from marsam_generator.elsewhere import Elsewhere
from marsam_generator.pulses import Pulses
from marsam_generator.records import save

from marsam.catalog.files import FileRef
from marsam.catalog.generations import DrawnPicture, GenerationRecord, Pulse, Timings
from marsam.core.clock import SystemClock
from marsam.core.ids import new_ulid
from marsam.core.names import format_name
from marsam.core.records import dump
from marsam.store import keys
from marsam.store.folder import FolderBlobs

CLOCK = SystemClock()


class Interrupted(FolderBlobs):
    """A store in which something happens right after the first read."""

    happens: Callable[[], Awaitable[None]] | None = None

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        try:
            return await super().get(key, start=start, length=length)
        finally:
            happens, self.happens = self.happens, None
            if happens is not None:
                await happens()


async def test_one_that_ends_while_it_is_asked_for_is_found_and_not_made_twice(tmp_path: Path) -> None:
    blobs = Interrupted(tmp_path)
    ulid = new_ulid(CLOCK)
    name = format_name("generation", "default", ulid)
    pulse = Pulse(name=name, replica="other", request={}, step=1, steps=2, create_time=CLOCK.now())
    await blobs.put(keys.pulse("default", ulid), dump(pulse))
    file = FileRef(path="000.png", digest=f"sha256:{'0' * 64}", size=1, media_type="image/png")
    record = GenerationRecord(
        name=name,
        request={},
        models={},
        pictures=(DrawnPicture(index=0, seed=1, width=16, height=16, file=file),),
        timings=Timings(queued=0.0, denoise=0.0, decode=0.0, total=0.0),
        fingerprint="",
        create_time=CLOCK.now(),
    )
    pulses = Pulses(blobs, CLOCK)

    async def end() -> None:
        await save(blobs, record)
        await pulses.clear(name)

    blobs.happens = end
    made = await Elsewhere(blobs, pulses, CLOCK).made(name)
    assert made is not None and (made.name, made.state) == (name, "succeeded")
