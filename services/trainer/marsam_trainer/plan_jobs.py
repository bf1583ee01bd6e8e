"""A plan made where the run would be: a short program of the run's own profile, which sees that machine's memory."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock
from marsam.core.errors import Deadline, MarsamError, Unavailable
from marsam.core.ids import new_ulid
from marsam.core.records import dump
from marsam.launch.launcher import Handle, Launcher, Program
from marsam_trainer.ground import Ground
from marsam_trainer.settings import TrainerSettings


async def plan_elsewhere(ground: Ground, settings: TrainerSettings, spec: RunSpec) -> dict[str, Any]:
    """What the run program says of `spec` on a machine of its profile.

    Raises Unavailable (PLAN_FAILED), Deadline (PLAN_SLOW) when that machine could not be had in time.
    """
    number = new_ulid(SystemClock())
    log = settings.cache / "logs" / "plans" / f"{number}.log"
    program = Program(
        argv=(
            *ground.command, "plan", "--store", settings.store, "--cache", ground.cache,
            "--spec-json", dump(spec).decode(),
        ),
        log_path=log,
        labels={"marsam.dev/project": spec.project},
        profile=spec.profile,
    )  # fmt: skip
    handle = await ground.launcher.start(program, key=f"{spec.project}.plans.{number}.1")
    try:
        async with asyncio.timeout(settings.plan_timeout_s):
            ended = await ground.launcher.follow(handle)
        told = await asyncio.to_thread(_told, log)
    except TimeoutError as error:
        waits = await ground.launcher.waiting(handle)
        why = f": {waits.message}" if waits is not None and waits.message else ""
        message = f"no plan within {settings.plan_timeout_s:g} s{why}"
        raise Deadline(message, reason="PLAN_SLOW", field="spec") from error
    finally:
        await _drop(ground.launcher, handle)
        await asyncio.to_thread(log.unlink, missing_ok=True)
    if told is None:
        raise Unavailable(f"the run program made no plan: {ended}", reason="PLAN_FAILED")
    return told


async def _drop(launcher: Launcher, handle: Handle) -> None:
    with contextlib.suppress(MarsamError):
        await launcher.stop(handle, grace_s=0)
        await launcher.forget(handle.key)


def _told(log: Path) -> dict[str, Any] | None:
    """The plan among the program's output, whose log lines are JSON too. Blocking."""
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
