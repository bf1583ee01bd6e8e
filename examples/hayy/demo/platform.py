"""`marsam up` as a child of the demo: the three services as real processes over a folder."""

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from marsam.client import Endpoints
from marsam.core.errors import Unavailable

READY_SECONDS = 120.0
# longer than `marsam up` allows its services to drain and their runs to save
STOP_SECONDS = 100.0


@contextlib.asynccontextmanager
async def running(
    home: Path, *, objects: str = "", environment: Mapping[str, str] | None = None
) -> AsyncIterator[Endpoints]:
    """The services over the folder `home` while the block runs; no process of them is left afterwards.

    Their objects are kept in that folder, or at the URL `objects`, which `environment` says how to reach.

    Raises Unavailable with what `marsam up` said when it does not come up.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "marsam.cli", "up", "--store", str(home), *(["--objects", objects] if objects else []),
        "--json", "--until-stdin-closes",
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, **(environment or {})},
        start_new_session=True,  # Ctrl-C reaches the demo alone; the pipe tells the services, however the demo ends
    )  # fmt: skip
    errors = asyncio.create_task(_collect(process))
    try:
        yield await _ready(process, errors)
    finally:
        await _stop(process)
        errors.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await errors


async def _ready(process: Process, errors: "asyncio.Task[list[str]]") -> Endpoints:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_SECONDS):
            async for line in process.stdout:
                event = json.loads(line)
                if event.get("event") == "ready":
                    return Endpoints(**{name: event[name]["grpc"] for name in ("dataset", "trainer", "generator")})
            said = "\n".join((await errors)[-8:])
    except TimeoutError:
        said = f"the services were not ready after {READY_SECONDS:.0f} s"
    raise Unavailable(said or "marsam up ended at once", reason="SERVICES_NOT_READY", remedy="run: marsam doctor")


async def _collect(process: Process) -> list[str]:
    assert process.stderr is not None
    return [line.decode(errors="replace").rstrip() async for line in process.stderr]


async def _stop(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
