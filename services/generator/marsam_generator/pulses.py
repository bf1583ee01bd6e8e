"""Generations that are being made, as other replicas see them: a sign of life in the store, and a mark to end one.

A replica that dies leaves a sign of life that grows old; whoever asks with the same request_id then draws again.
"""

import asyncio
import time

from marsam.catalog.generations import Pulse
from marsam.core.clock import Clock
from marsam.core.errors import Exists, MarsamError, Missing
from marsam.core.ids import new_ulid
from marsam.core.names import parse
from marsam.core.records import canonical, dump, load
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.telemetry import Log
from marsam_generator import wire
from marsam_generator.live import Live

_log = Log(__name__)

BEAT_S = 5.0
"""Between two signs of life. What is made in less leaves none, unless it is detached, which leaves one at once."""

LOST_S = 20.0
"""A generation whose sign of life is older, by the store's clock, has lost who made it."""

BEFORE_S = 2.0
"""A mark to end a generation that is older than its making by more than this was meant for an earlier one. (Stores tell
whole seconds.)"""


class Pulses:
    """Those of one replica, and a view of the others'."""

    def __init__(self, blobs: Blobs, clock: Clock) -> None:
        self._blobs = blobs
        self._replica = new_ulid(clock)

    async def beat(self, live: Live, ended: asyncio.Event) -> None:
        """Tell of `live` until `ended`, and end it when somebody elsewhere asks for that; leaves nothing behind."""
        began = time.monotonic()
        if not live.detached and await _within(ended, BEAT_S):
            return
        while True:
            try:
                await self._tell(live)
                if await self._is_to_end(live.name, began):
                    live.cancelled.set()
            except MarsamError as error:
                _log.warning("generation.pulse_failed", job=live.name, message=str(error))
            except Exception:  # a fault of ours must not cost the signs that are still to come
                _log.exception("generation.pulse_failed", job=live.name)
            if await _within(ended, BEAT_S):
                break
        await self.clear(live.name)

    async def of(self, name: str) -> tuple[Pulse, bool] | None:
        """What was told last of a generation, and whether it is still being made; None when nothing is known."""
        key = keys.pulse(*_parts(name))
        try:
            data, stat = await self._blobs.get(key), await self._blobs.stat(key)
        except Missing:
            return None
        return load(Pulse, data, what=name), stat.age_s <= LOST_S

    async def ask_to_end(self, name: str) -> None:
        """Have the replica that makes a generation end it with its next sign of life."""
        try:
            await self._blobs.create(keys.cancel(*_parts(name)), canonical({"replica": self._replica}))
        except Exists:
            return

    async def clear(self, name: str) -> None:
        """Forget what was told of a generation."""
        try:
            await self._blobs.delete([keys.pulse(*_parts(name)), keys.cancel(*_parts(name))])
        except MarsamError as error:
            _log.warning("generation.pulse_failed", job=name, message=str(error))

    async def _tell(self, live: Live) -> None:
        pulse = Pulse(
            name=live.name,
            replica=self._replica,
            request=wire.request_fields(live.wanted.resolved),
            step=live.progress.step,
            steps=live.progress.steps,
            create_time=live.create_time,
        )
        await self._blobs.put(keys.pulse(*_parts(live.name)), dump(pulse))

    async def _is_to_end(self, name: str, began: float) -> bool:
        try:
            mark = await self._blobs.stat(keys.cancel(*_parts(name)))
        except Missing:
            return False
        return mark.age_s <= time.monotonic() - began + BEFORE_S


def _parts(name: str) -> tuple[str, str]:
    parts = parse(name, "generation")
    return parts.project, parts.id


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
