"""What a supervisor is told about a kind of job, and the small parts it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from marsam.core.clock import Clock
from marsam.core.errors import Invalid
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.launch.launcher import Exit, Program


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How patient a supervisor is. `slots` programs run at once; waiting jobs are taken in the order in which they were
    created, however often they were tried or resumed since, and keep their slot between attempts.

    A program must show a first heartbeat within `start_s` seconds and later ones within `silence_s`, or it is stopped;
    with `silence_s` None it shows none. A program that is asked to stop gets `grace_s` seconds. `backoff_s` passes
    between two attempts, `poll_s` between two looks.
    """

    slots: int = 1
    start_s: float = 300.0
    silence_s: float | None = 120.0
    grace_s: float = 60.0
    backoff_s: float = 2.0
    poll_s: float = 1.0

    def __post_init__(self) -> None:
        if self.slots < 1 or min(self.start_s, self.grace_s, self.backoff_s) < 0 or self.poll_s <= 0:
            raise Invalid("a policy needs at least one slot and no negative times", field="policy")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an attempt ended. `silent`: it was stopped because it gave no sign of life."""

    attempt: int
    exit: Exit
    silent: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an attempt's end means for the job: SUCCEEDED, FAILED, or PENDING for another attempt."""

    state: State
    reason: str = ""
    message: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.state not in (State.SUCCEEDED, State.FAILED, State.PENDING):
            raise Invalid(f"an attempt ends in SUCCEEDED, FAILED or PENDING, not in {self.state}", field="state")


class Work(Protocol):
    """A kind of job, as far as a supervisor must know it."""

    async def program(self, store: JobStore, job_id: str, attempt: int) -> Program:
        """Return what to run for this attempt. A stated error fails the job with the error's reason."""
        ...

    async def judge(self, store: JobStore, job_id: str, ended: Ended) -> Outcome:
        """Say what the end of an attempt means. A cancelled job becomes CANCELLED unless this says SUCCEEDED."""
        ...


def program_key(store: JobStore, job_id: str, attempt: int) -> str:
    """Return the key under which a launcher knows an attempt's program."""
    return f"{store.project}.{store.kind}.{job_id}.{attempt}"


class Pulse:
    """Notices silence: a heartbeat whose time in the store does not change while our own clock runs.

    Neither clock is compared with the other, and a machine that slept does not count its sleep.
    """

    def __init__(self, clock: Clock, *, start_s: float, silence_s: float | None) -> None:
        self._clock = clock
        self._start_s = start_s
        self._silence_s = silence_s
        self._last: datetime | None = None
        self._since = clock.monotonic()

    def excuse(self) -> None:
        """Begin counting anew: nothing could be heard, whoever spoke."""
        self._since = self._clock.monotonic()

    def silent(self, modified: datetime | None) -> bool:
        """Take in the heartbeat's time (None: there is none yet) and say whether the silence is too long."""
        now = self._clock.monotonic()
        if modified != self._last:
            self._last, self._since = modified, now
        if self._silence_s is None:
            return False
        return now - self._since > (self._start_s if self._last is None else self._silence_s)
