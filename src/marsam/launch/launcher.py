"""What a launcher is, whatever it launches with."""

import re
import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from marsam.core.errors import Invalid

ECHO = 76
"""The exit code of a rank that ends only because another one is gone or hangs: what became of that one comes first."""

_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


class Cause(StrEnum):
    """Why a program is no longer running."""

    DONE = "DONE"  # exit code 0
    FAILED = "FAILED"  # another exit code
    SIGNALLED = "SIGNALLED"  # a signal ended it
    OUT_OF_MEMORY = "OUT_OF_MEMORY"  # the kernel took it because memory ran out
    LOST = "LOST"  # it is gone and nobody saw how: a power cut, or its keeper was killed
    DISRUPTED = "DISRUPTED"  # the platform took it away, through no fault of its own: preempted, evicted, drained
    NOT_STARTED = "NOT_STARTED"  # it never ran: refused, no image, no place
    OVERDUE = "OVERDUE"  # it had run for as long as it was allowed to


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run: `argv` with an absolute program or one on PATH; `env` is added to the launcher's own variables.

    Standard output and error go to `log_path`, which is appended to; where the program runs elsewhere, when it ends.
    `labels` say what it is for, `profile` names the kind of machine it wants ('' is the launcher's own choice),
    `beat_path` is a file that it touches while it is well, and `limit_s` is for a program that is of use to its caller
    only: it is ended after running for so long (0: never), and forgotten soon after, whatever became of the caller. A
    launcher on one machine has no use for these four.

    `ranks` copies of it work together: each is told RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and
    MASTER_PORT as by torchrun, and its share of the cores. They end together: soon after the first has failed, and as
    that one did.
    """

    argv: tuple[str, ...]
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""
    beat_path: Path | None = None
    limit_s: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise Invalid(f"a program has one rank or more, not {self.ranks}", field="ranks")
        if not self.argv or any("\0" in word for word in self.argv):
            raise Invalid("a program needs words without NUL to run", field="argv")


@dataclass(frozen=True, kw_only=True)
class Handle:
    """A launched program. `key` finds it again after a restart; `place` says where it runs, for messages."""

    key: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a program ended: by an exit code or by a signal, never both; `peak_rss` in bytes, 0 when unknown.

    `reason` is a stable word (NODE_LOST, IMAGE_PULL …) and `message` a sentence, where the launcher knows more.
    """

    cause: Cause
    code: int | None = None
    signal: int | None = None
    peak_rss: int = 0
    reason: str = ""
    message: str = ""

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.cause is Cause.LOST:
            return "vanished without a trace (the machine restarted, or its keeper was killed)"
        if self.cause is Cause.OUT_OF_MEMORY:
            return "killed by the kernel because memory ran out"
        if self.signal is not None:
            return f"ended by {signals.Signals(self.signal).name}"
        return "finished" if self.code == 0 else f"ended with exit code {self.code}"


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What a program that was launched is still waiting for: a stable word and a sentence, '' when it is only brief."""

    reason: str
    message: str = ""


class Launcher(Protocol):
    """Starts programs that outlive the launcher's own process, and finds them again by key."""

    async def start(self, program: Program, *, key: str) -> Handle:
        """Start `program` under `key`, once and for ever.

        Raises Exists (PROGRAM_KEY_USED) when the key was used before, Invalid (PROGRAM_NOT_FOUND) when there is no such
        program (a launcher that learns it later says it by NOT_STARTED), Unavailable when it cannot be started.
        """
        ...

    async def adopt(self, key: str) -> Handle | None:
        """Return the program that was started under `key`, running or ended; None when there is none."""
        ...

    async def waiting(self, handle: Handle) -> Waiting | None:
        """Say what keeps a launched program from running; None once it runs or has ended."""
        ...

    async def follow(self, handle: Handle) -> Exit:
        """Wait until the program has ended and return how. May be called again, and by several."""
        ...

    async def stop(self, handle: Handle, *, grace_s: float) -> Exit:
        """Ask the program to end (SIGTERM, once for each rank), make it end after `grace_s` seconds (SIGKILL), with all
        that it started.
        """
        ...

    async def forget(self, key: str) -> None:
        """Drop what is remembered of an ended program. Raises Precondition (PROGRAM_RUNNING) when it still runs."""
        ...


def check_program_key(key: str) -> str:
    """Return `key` if it may name a program; Invalid otherwise."""
    if not _KEY.fullmatch(key):
        raise Invalid(f"'{key[:80]}' cannot name a program", field="key", reason="KEY_NOT_ALLOWED")
    return key
