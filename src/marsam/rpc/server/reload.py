"""Files that are read again when they change, while the service serves.

A mounted Secret is exchanged under our feet, and a certificate lives for weeks: neither may need a restart. What was
read last and was right stays in force while the files are wrong: a half-written file must not lock everybody out.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from marsam.core.errors import MarsamError
from marsam.telemetry import Log

T = TypeVar("T")

POLL_SECONDS = 1.0
"""How often the files are looked at."""

_LOG = Log("marsam.rpc.reload")


class Reloaded(Generic[T]):
    """What some files say. `read` raises a MarsamError when they say nothing useful: at the start that is passed on."""

    def __init__(self, setting: str, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._setting = setting
        self._paths = tuple(paths)
        self._read = read
        # Looked at before it is read: a change in between is seen at the next look.
        self._seen = self._look()
        self.current = read()

    def refresh(self) -> None:
        """Reads again if the files changed since the last time. Never raises for their content."""
        look = self._look()
        if look == self._seen:
            return
        self._seen = look
        try:
            self.current = self._read()
        except MarsamError as error:
            _LOG.error("file.refused", setting=self._setting, reason=error.reason, message=error.message,
                       remedy="what was in force before stays in force")  # fmt: skip
            return
        _LOG.info("file.reloaded", setting=self._setting, file=str(self._paths[0]))

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_mark(path) for path in self._paths)


async def follow(watched: Sequence[Reloaded[object]]) -> None:
    """Keeps all of them fresh until cancelled."""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        for one in watched:
            await asyncio.to_thread(one.refresh)


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)
