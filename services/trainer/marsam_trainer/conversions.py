"""Checkpoints in one file, turned into parts of a base by the run program: this one knows no tensors."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn

from marsam.catalog.files import FileRef
from marsam.core.errors import Corrupt, Deadline, Exhausted, Invalid, Unavailable
from marsam_trainer.conversion import Conversion
from marsam_trainer.ground import Ground
from marsam_trainer.plan_jobs import ask_elsewhere
from marsam_trainer.questions import ask_here
from marsam_trainer.run import codes
from marsam_trainer.settings import TrainerSettings

_COMMAND = "convert"


class Converter:
    """Asks for conversions, one process or Job each; the others wait in the order they came, until their callers go."""

    def __init__(self, settings: TrainerSettings, ground: Ground) -> None:
        self._settings = settings
        self._ground = ground
        self._turn = asyncio.Semaphore(settings.max_concurrent_conversions)

    @property
    def elsewhere(self) -> bool:
        """Whether files are converted on other machines, which see the store only."""
        return self._ground.elsewhere

    @property
    def profile(self) -> str:
        """The kind of machine that converts."""
        return self._ground.default

    async def convert(self, order: Conversion) -> tuple[FileRef, ...]:
        """The parts, stored. Raises Invalid and Corrupt as the program says, Exhausted (OUT_OF_MEMORY), Unavailable
        (CONVERT_FAILED), Deadline (CONVERT_SLOW, CONVERT_QUEUE)."""
        async with self._its_turn():
            return await self._convert(order)

    @contextlib.asynccontextmanager
    async def _its_turn(self) -> AsyncIterator[None]:
        """Wait for those that came before, as long as one conversion may take."""
        limit_s = self._settings.convert_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self._turn.acquire()
        except TimeoutError as error:
            raise Deadline(
                f"other files were converted for {limit_s:g} s, and this one's turn did not come",
                reason="CONVERT_QUEUE",
                remedy="send it again later, or raise max_concurrent_conversions in the trainer's settings",
            ) from error
        try:
            yield
        finally:
            self._turn.release()

    async def _convert(self, order: Conversion) -> tuple[FileRef, ...]:
        limit_s = self._settings.convert_timeout_s
        how = ""
        if self._ground.elsewhere:
            told = await ask_elsewhere(self._ground, self._settings, order, command=_COMMAND, limit_s=limit_s)
        else:
            told, how = await ask_here(self._settings, order, command=_COMMAND, limit_s=limit_s)
        try:
            if told["faults"]:
                _raise(told["faults"][0])
            return tuple(FileRef(**entry) for entry in told["files"])
        except (KeyError, TypeError) as broken:
            raise Unavailable(f"the run program converted nothing ({how})", reason="CONVERT_FAILED") from broken


def _raise(fault: Mapping[str, Any]) -> NoReturn:
    text, reason, remedy = str(fault["message"]), str(fault.get("reason", "")), str(fault.get("remedy") or "")
    match fault.get("exit_code"):
        case codes.BAD_SPEC:
            raise Invalid(text, reason=reason, field=fault.get("field"), remedy=remedy)
        case codes.BAD_DATA:
            raise Corrupt(text, reason=reason, field=fault.get("field"), remedy=remedy)
        case codes.OUT_OF_MEMORY:
            raise Exhausted(text, reason="OUT_OF_MEMORY", remedy="convert it on a machine with more memory")
        case _:
            raise Unavailable(f"the run program converted nothing: {text}", reason="CONVERT_FAILED")
