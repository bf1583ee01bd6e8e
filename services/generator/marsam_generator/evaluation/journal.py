"""What an evaluation tells while it works: a heartbeat every second, and the pictures it has, so that it can go on."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from marsam.core.clock import format_time
from marsam.core.errors import MarsamError, Missing, Precondition
from marsam.jobs.progress import append_events, heartbeat, read_events
from marsam.jobs.store import JobStore
from marsam.telemetry import Log
from marsam_generator.evaluation.drawing import Shot

TICK_S = 1.0
SILENCE_S = 120.0
"""After this long without a successful write the evaluation gives up: it would work on for nobody."""

_log = Log(__name__)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A picture in the store."""

    digest: str
    size: int
    fingerprint: str = ""


async def recall(jobs: JobStore, job_id: str, *, before: int) -> dict[Shot, Kept]:
    """Return the pictures that attempts before attempt `before` have put into the store."""
    found: dict[Shot, Kept] = {}
    for attempt in range(1, before):
        try:
            events, _ = await read_events(jobs, job_id, attempt)
        except Missing:
            continue
        for event in events:
            if event.get("kind") == "picture":
                shot = Shot(**{name: event[name] for name in ("model", "prompt", "language", "seed")})
                kept = Kept(digest=event["digest"], size=event["size"], fingerprint=event.get("fingerprint", ""))
                found[shot] = kept
    return found


class Journal:
    """Collects what is told and writes it every second, until `close`. Run `write` as a task."""

    def __init__(self, jobs: JobStore, job_id: str, attempt: int, *, pictures: int) -> None:
        self._jobs, self._id, self._attempt = jobs, job_id, attempt
        self._waiting: list[Mapping[str, Any]] = []
        self._batch: list[Mapping[str, Any]] = []
        self._segment = 1
        self._pictures = pictures
        self._done = self._fresh = 0
        self._began = time.monotonic()
        self._phase, self._model = "loading", ""
        self._closed = asyncio.Event()
        self._told = time.monotonic()

    def phase(self, name: str) -> None:
        """Say what the evaluation is at: loading, generating, judging, reporting."""
        self._phase = name
        if name == "generating":
            self._began = time.monotonic()

    def reused(self) -> None:
        """Count a picture that an earlier attempt made."""
        self._done += 1

    def drew(self, shot: Shot, kept: Kept, *, model: str) -> None:
        """Note a new picture, by the name of the model that made it."""
        self._done += 1
        self._fresh += 1
        self._model = model
        self._waiting.append({"kind": "picture", **asdict(shot), **asdict(kept)})

    def close(self) -> None:
        """Write what is left, and end."""
        self._closed.set()

    async def write(self) -> None:
        """Write until closed. Raises Precondition (JOB_FENCED) when another attempt took over; what the store says."""
        while True:
            closing = self._closed.is_set()
            try:
                await self._tell()
                self._told = time.monotonic()
                if closing:
                    return
            except MarsamError as error:
                if isinstance(error, Precondition) or time.monotonic() - self._told > SILENCE_S:
                    raise
                _log.warning("evaluation.delayed", reason=error.reason, message=error.message)
                await asyncio.sleep(TICK_S)
            await _wait(self._closed, TICK_S)

    async def _tell(self) -> None:
        await self._jobs.check_fence(self._id, self._attempt)
        if not self._batch:
            # A segment whose write failed is sent again as it was: it may have been written all the same.
            self._batch = [*self._waiting, self._progress()]
            self._waiting.clear()
        await append_events(self._jobs, self._id, self._attempt, self._segment, self._batch)
        self._segment += 1
        self._batch = []
        await heartbeat(self._jobs, self._id, self._attempt, self._progress())

    def _progress(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._began
        rate = self._fresh / seconds if seconds > 0 else 0.0
        left = self._pictures - self._done
        return {
            "kind": "progress",
            "phase": self._phase,
            "pictures_done": self._done,
            "pictures": self._pictures,
            "images_per_second": round(rate, 3),
            "eta_seconds": round(left / rate, 1) if rate else 0.0,
            "model": self._model,
            "at": format_time(self._jobs.clock.now()),
        }


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
