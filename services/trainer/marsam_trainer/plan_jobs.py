"""A question answered where the run would be: a short program of the run's own profile, which sees that machine."""

import asyncio
import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from marsam.core.clock import SystemClock
from marsam.core.errors import Deadline, MarsamError, OutcomeUnknown, Unavailable
from marsam.core.ids import new_ulid
from marsam.core.records import dump
from marsam.launch.launcher import Handle, Launcher, Program
from marsam.telemetry import Log
from marsam_trainer.ground import Ground
from marsam_trainer.settings import TrainerSettings

_LOG = Log(__name__)

_LIMIT_MARGIN_S = 60
"""How long after its last listener has gone such a program may still run, where nobody was left to end it."""

_PAUSES_S = (0.0, 0.5, 2.0, 5.0)
"""Before each try to reach a program that is to be dropped."""


class Asked(Protocol):
    """What the run program is asked about: a record with a project, and a kind of machine."""

    @property
    def project(self) -> str: ...

    @property
    def profile(self) -> str: ...


async def ask_elsewhere(
    ground: Ground,
    settings: TrainerSettings,
    spec: Asked,
    *,
    command: str,
    limit_s: float,
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """What the run program's `command` (`plan`, `probe`, `convert`) says of `spec` on a machine of its profile.

    Raises Unavailable (PLAN_FAILED), Deadline (PLAN_SLOW) when that machine could not be had in time.
    """
    number = new_ulid(SystemClock())
    log = settings.cache / "logs" / f"{command}s" / f"{number}.log"
    program = Program(
        argv=(
            *ground.command, command, "--store", settings.store, "--cache", ground.cache,
            "--spec-json", dump(spec).decode(), *more,
        ),
        log_path=log,
        labels={"marsam.dev/project": spec.project},
        profile=spec.profile,
        limit_s=math.ceil(limit_s) + _LIMIT_MARGIN_S,
    )  # fmt: skip
    key = f"{spec.project}.{command}s.{number}.1"
    start = asyncio.create_task(_start(ground.launcher, program, key))
    try:
        handle = await asyncio.shield(start)
        async with asyncio.timeout(limit_s):
            ended = await ground.launcher.follow(handle)
        told = await asyncio.to_thread(_told, log)
    except TimeoutError as error:
        waits = await ground.launcher.waiting(handle)
        why = f": {waits.message}" if waits is not None and waits.message else ""
        message = f"no {command} within {limit_s:g} s{why}"
        raise Deadline(message, reason=f"{command.upper()}_SLOW", field="spec") from error
    finally:
        # A start that was under way when this was cancelled makes its program all the same.
        (started,) = await asyncio.gather(start, return_exceptions=True)
        if isinstance(started, Handle | OutcomeUnknown):
            await _drop(ground.launcher, key)
        await asyncio.to_thread(log.unlink, missing_ok=True)
    if told is None:
        raise Unavailable(f"the run program made no {command}: {ended}", reason=f"{command.upper()}_FAILED")
    return told


async def _start(launcher: Launcher, program: Program, key: str) -> Handle:
    """As `Launcher.start`, which may have begun it although its answer was lost. Raises OutcomeUnknown otherwise."""
    try:
        return await launcher.start(program, key=key)
    except OutcomeUnknown as error:
        try:
            found = await launcher.adopt(key)
        except MarsamError:
            raise error from None
        if found is None:
            raise
        return found


async def _drop(launcher: Launcher, key: str) -> None:
    """End the program, if there is one, and forget it. One that stays out of reach ends by its limit."""
    said = ""
    for pause in _PAUSES_S:
        await asyncio.sleep(pause)
        try:
            handle = await launcher.adopt(key)
            if handle is not None:
                await launcher.stop(handle, grace_s=0)
                await launcher.forget(key)
            return
        except MarsamError as error:
            said = str(error)
    _LOG.warning("plan.left", key=key, message=said)


def _told(log: Path) -> dict[str, Any] | None:
    """The answer among the program's output, whose log lines are JSON too. Blocking."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if isinstance(said, dict) and "faults" in said:
                return said
    return None
