"""`marsam up` over one folder, its operator, and a way to find and kill anything in it."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from marsam.cli.children import SERVICES
from marsam.client import AsyncMarsam
from marsam.client.endpoints import FILE, read
from marsam.core.errors import Cancelled, Deadline, MarsamError, OutcomeUnknown, Unavailable
from tests.integration.cli.support import Said, begin, finish, gone, living

T = TypeVar("T")

UP = "up"
VICTIMS = (UP, *SERVICES, "run", "keeper", "decoder")
AWAY = (Unavailable, Deadline, OutcomeUnknown, Cancelled)
"""What a caller hears of a service that is killed under it. Nothing else may come of a kill."""
PATIENCE_S = 900.0
"""How long a caller keeps trying one thing, and the operator to get the house up."""
STOP_S = 90.0


class House:
    """The services, all in the folder `folder`, on the same ports whenever they are started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / ".marsam"
        self.kills: Counter[str] = Counter()
        self._ports = free_ports(2 * len(SERVICES))
        self._process: subprocess.Popen[str] | None = None
        self._sessions: set[int] = set()

    def configure(self, service: str, **settings: object) -> None:
        """Write a service's settings, as an operator does before the start."""
        self.home.mkdir(exist_ok=True)
        (self.home / f"{service}.toml").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))

    def start(self) -> None:
        """Bring the house up, again and again while what was killed still holds its ports."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            process = begin("up", "--json", "--port", str(self._ports), folder=self.folder)
            assert process.stdout is not None
            line = process.stdout.readline()
            if '"ready"' in line:
                break
            said = finish(process)
            assert "PORT_IN_USE" in line and time.monotonic() < deadline, f"{line}{said}"
            time.sleep(0.5)
        self._process = process
        # Every service is the leader of a session: what it started itself is found by that, even as an orphan.
        self._sessions |= {pid for service in SERVICES for pid in self.pids(service)}

    def stop(self) -> Said:
        """Ctrl-C, and how it ended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return finish(self._process, timeout=STOP_S)

    def kill(self, kind: str, chance: random.Random) -> bool:
        """Kill -9 one process of a kind; False when there is none just now. Puts the house up again if it fell."""
        pids = self.pids(kind)
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(pids), signal.SIGKILL)
        self.kills[kind] += 1
        if kind in (UP, *SERVICES):
            assert self._process is not None
            said = finish(self._process, timeout=STOP_S)
            assert kind == UP or said.lines[-1]["error"]["reason"] == "SERVICE_DIED", said
            self.start()
        return True

    def pids(self, kind: str) -> list[int]:
        """The living processes of a kind."""
        if kind == UP:
            return [self._process.pid] if self._process is not None and self._process.poll() is None else []
        if kind == "decoder":
            return sorted(pid for pid, words in in_sessions(self._sessions).items() if "marsam.imaging.worker" in words)
        return sorted(pid for pid, words in living(self.home).items() if kind_of(words) == kind)

    def gone(self) -> None:
        """Nothing that this house ever started runs any more."""
        gone(self.home, within=30)
        deadline = time.monotonic() + 30
        while left := in_sessions(self._sessions):
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(0.1)

    def end(self) -> None:
        """Whatever still runs is killed."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        for pid in {**living(self.home), **in_sessions(self._sessions)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def insist(self, act: Callable[[AsyncMarsam], Awaitable[T]]) -> T:
        """Do `act` until it comes through, as a patient caller does while services go and come back."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    async with AsyncMarsam(read(self.home / FILE)) as marsam:
                        return await act(marsam)
                except MarsamError as error:
                    if not isinstance(error, AWAY):
                        raise
                await asyncio.sleep(0.5)


def kind_of(words: str) -> str:
    """What the process of this command line is, '' for none that is killed on purpose."""
    if "keeper.py" in words:
        return "keeper"
    if "marsam_trainer.run train" in words:
        return "run"
    return next((service for service in SERVICES if f"-m marsam_{service} " in words), "")


def in_sessions(sessions: set[int]) -> dict[int, str]:
    """The living processes of these sessions, with their command lines."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) in sessions and state != "Z":
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row, below those that the system gives out by itself."""
    for first in range(20_000 + os.getpid() % 500 * count, 32_000, count):
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports in a row")
