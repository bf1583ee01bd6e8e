"""The three services as child processes: started, watched, and ended with all that they started.

Three things keep a killed `marsam up` from leaving anything behind. Each service reads its standard input, a pipe whose
other end only we hold, and drains when it closes, however we die. Each is told to stop when we are told. And we adopt
the orphans of a service that crashed (Linux: PR_SET_CHILD_SUBREAPER), so that its runs end with us.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marsam.cli.home import Home
from marsam.core.errors import MarsamError, Precondition, Unavailable
from marsam.store.settings import s3_variables

SERVICES = ("dataset", "trainer", "generator")

_START_SECONDS = 180.0
_STOP_SECONDS = 60.0
_ORPHAN_SECONDS = 20.0
_TAIL_BYTES = 64 * 1024
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <sys/prctl.h>


@dataclass(kw_only=True)
class Child:
    """A running service."""

    service: str
    process: asyncio.subprocess.Process
    log: Path
    log_start: int
    address: dict[str, Any]
    copying: "asyncio.Task[None] | None" = None

    @property
    def entry(self) -> dict[str, Any]:
        """What endpoints.json says of it."""
        return {"grpc": self.address["grpc"], "http": self.address["http"], "pid": self.process.pid}


async def start(service: str, *, home: Home, ports: tuple[int, int], lock: int) -> Child:
    """Starts a service and waits until it is ready.

    Raises Precondition with the service's own reason when it refuses, Unavailable when it dies or takes too long.
    """
    log = home.log(service)
    config = home.config(service)
    arguments = ["--until-stdin-closes", *(["--config", str(config)] if config.is_file() else [])]
    # A service refuses settings that it does not know: what is in our environment is meant for the command line.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MARSAM_")}
    environment |= {
        "MARSAM_STORE": home.store_url,
        "MARSAM_CACHE": str(home.cache),
        "MARSAM_LISTEN": f"127.0.0.1:{ports[0]}",
        "MARSAM_HTTP_LISTEN": f"127.0.0.1:{ports[1]}",
        # It must not find modules in whatever folder we were called from.
        "PYTHONSAFEPATH": "1",
        # Its page, on loopback as everything else.
        **({"MARSAM_REST": "true"} if service == "generator" else {}),
        **s3_variables(os.environ),
    }
    with log.open("ab") as said:
        begins = said.tell()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"marsam_{service}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C is for us alone; we pass it on in order
            pass_fds=(lock,),
        )
    child = Child(service=service, process=process, log=log, log_start=begins, address={})
    try:
        async with asyncio.timeout(_START_SECONDS):
            child.address = await _ready(child)
    except TimeoutError as error:
        await stop([child])
        raise Unavailable(
            f"the {service} service was not ready within {_START_SECONDS:.0f} s",
            reason="START_TIMEOUT",
            remedy=f"see {log}",
        ) from error
    except BaseException:
        await stop([child])
        raise
    child.copying = asyncio.create_task(_copy(child), name=f"up.stdout.{service}")
    return child


async def _ready(child: Child) -> dict[str, Any]:
    assert child.process.stdout is not None
    while line := await child.process.stdout.readline():
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if isinstance(said, dict) and said.get("event") == "ready":
                return said
    await child.process.wait()
    raise await asyncio.to_thread(death, child)


async def _copy(child: Child) -> None:
    """Keeps the pipe empty: what a service prints after its ready line joins its log."""
    assert child.process.stdout is not None
    while line := await child.process.stdout.readline():
        await asyncio.to_thread(_append, child.log, line)


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line)


def death(child: Child) -> MarsamError:
    """Why a service is gone, in its own words if it had any."""
    with child.log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(child.log_start, file.tell() - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if isinstance(said, dict) and said.get("event") == "service.refused":
                return Precondition(
                    f"the {child.service} service refuses to start: {said['message']}",
                    reason=said["reason"],
                    field=said.get("setting") or None,
                    remedy=said.get("remedy") or f"see {child.log}",
                )
    code = child.process.returncode
    how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Unavailable(
        f"the {child.service} service ended ({how})" + (f": {last[:300]}" if last else ""),
        reason="SERVICE_DIED",
        remedy=f"see {child.log}",
    )


async def first_death(children: Sequence[Child]) -> Child:
    """Waits until one of them ends."""
    waiting = {asyncio.create_task(child.process.wait()): child for child in children}
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return waiting[done.pop()]
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def stop(children: Sequence[Child], *, hurry: asyncio.Event | None = None) -> None:
    """Asks all to drain and waits; kills those that take too long, or when `hurry` is set."""
    for child in children:
        if child.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
    impatient = asyncio.create_task(hurry.wait() if hurry is not None else asyncio.Event().wait())
    waits = [asyncio.create_task(child.process.wait()) for child in children]
    everyone = asyncio.gather(*waits)
    try:
        either: set[asyncio.Future[Any]] = {everyone, impatient}
        await asyncio.wait(either, timeout=_STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for child in children:
            if child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()
        await everyone
    finally:
        impatient.cancel()
        await asyncio.wait({impatient})
    for child in children:
        if child.process.stdin is not None:
            child.process.stdin.close()
        if child.copying is not None:
            await child.copying


def adopt_orphans() -> None:
    """From now on, processes whose parents die become our children (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


async def end_orphans() -> int:
    """Ends whatever our services left behind; gives how many that were."""
    found = set(_descendants())
    for patience, number in ((_ORPHAN_SECONDS, signal.SIGTERM), (5.0, signal.SIGKILL)):
        for pid in _descendants():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        waited = 0.0
        while _descendants() and waited < patience:
            await asyncio.sleep(0.1)
            waited += 0.1
    return len(found)


def _descendants() -> list[int]:
    """Living processes below us, by /proc; reaps the dead ones that are ours."""
    if not Path("/proc/self/stat").exists():
        return []
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
    below: list[int] = []
    generation = {os.getpid()}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation}
        below.extend(generation)
    return below


def entries(children: Sequence[Child]) -> Mapping[str, Mapping[str, Any]]:
    """The services' part of endpoints.json."""
    return {child.service: child.entry for child in children}
