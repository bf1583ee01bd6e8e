"""The supervisor: sees every live job of one kind to its end, attempt by attempt.

It decides nothing about the work itself: `Work` says which program to run and what its end means. Everything it needs
to go on after a crash is in the store and with the launcher: a job that is STARTING or RUNNING when a service comes up
is found again under its key, and its end is learned even if it came while nobody was looking.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from marsam.core.clock import Clock
from marsam.core.errors import Conflict, Deadline, Exists, Invalid, MarsamError, OutcomeUnknown, Unavailable
from marsam.jobs.progress import read_heartbeat
from marsam.jobs.states import State, Transition
from marsam.jobs.store import JobStore
from marsam.launch.attempt import Ended, Outcome, Policy, Pulse, Work, program_key
from marsam.launch.launcher import Cause, Exit, Handle, Launcher
from marsam.launch.waits import tell_wait
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.store.keys import JobKind
from marsam.telemetry import Meter

_log = logging.getLogger(__name__)

_UNDER_WAY = (State.STARTING, State.RUNNING, State.CANCELLING)


@dataclass(frozen=True, kw_only=True)
class _Job:
    store: JobStore
    id: str

    @property
    def key(self) -> tuple[str, str]:
        return self.store.project, self.id


class Supervisor:
    """Drives the jobs of `kind` in every project. `owner` names this launcher: jobs of other owners are left to them.

    Use as `async with Supervisor(…) as supervisor`, call `wake()` after a job was created or a cancel was asked for.
    """

    def __init__(
        self,
        blobs: Blobs,
        kind: JobKind,
        *,
        launcher: Launcher,
        work: Work,
        policy: Policy,
        owner: str,
        clock: Clock,
        meter: Meter | None = None,
    ) -> None:
        self._blobs = blobs
        self._kind: JobKind = kind
        self._launcher = launcher
        self._work = work
        self._policy = policy
        self._owner = owner
        self._clock = clock
        self._meter = meter
        self._stores: dict[str, JobStore] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._handles: dict[tuple[str, str], Handle] = {}
        self._starts: set[asyncio.Task[Handle]] = set()
        self._changed = asyncio.Event()
        self._looker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Supervisor":
        self._looker = asyncio.create_task(self._look(), name=f"supervise {self._kind}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close(stop_programs=False)

    def wake(self) -> None:
        """Look for work at once instead of at the next turn."""
        self._changed.set()

    @property
    def running(self) -> int:
        """How many programs run at the moment."""
        return len(self._handles)

    async def close(self, *, stop_programs: bool) -> None:
        """Stop supervising. Programs run on and are found again, or are asked to stop and waited for.

        What a stopped program leaves is judged by the next supervisor, as if it had ended by itself.
        """
        tasks = [task for task in (self._looker, *self._tasks.values()) if task is not None]
        self._looker = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A program whose start was under way when its task was cancelled has been started all the same.
        started = await asyncio.gather(*self._starts, return_exceptions=True)
        if stop_programs:
            handles = {h.key: h for h in (*self._handles.values(), *started) if not isinstance(h, BaseException)}
            stops = (self._launcher.stop(h, grace_s=self._policy.grace_s) for h in handles.values())
            for outcome in await asyncio.gather(*stops, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    _log.warning("cannot stop a program of %s: %s", self._kind, outcome)
        self._handles.clear()

    async def _look(self) -> None:
        """At each turn, take up what is under way and undriven, then give free slots to what waits, oldest first."""
        while True:
            self._changed.clear()
            try:
                for job, head in await self._live():
                    if job.key in self._tasks:
                        continue
                    if head.state is not State.PENDING and head.owner != self._owner:
                        await self._mind_foreign(job, head)
                    elif head.state is not State.PENDING or len(self._tasks) < self._policy.slots:
                        self._tasks[job.key] = asyncio.create_task(self._drive(job), name=job.id)
            except MarsamError as error:
                _log.warning("cannot look for %s: %s", self._kind, error)
            except Exception:  # a fault in one job's record must not leave all others unattended
                _log.exception("cannot look for %s", self._kind)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._policy.poll_s):
                    await self._changed.wait()

    async def _live(self) -> list[tuple[_Job, Transition]]:
        """Return every live job with its head: those under way first, then by age."""
        found: list[tuple[_Job, Transition]] = []
        for project in await names(self._blobs, keys.projects(), folders=True):
            if project not in self._stores:
                self._stores[project] = JobStore(self._blobs, project, self._kind, self._clock, meter=self._meter)
            store = self._stores[project]
            try:
                live = await store.live()
            except Invalid as error:  # a folder that is no project: other projects' jobs are attended all the same
                _log.warning("cannot look for %s of project '%s': %s", self._kind, project, error)
                continue
            found += [(_Job(store=store, id=job_id), head) for job_id, head in live.items()]
        return sorted(found, key=lambda pair: (pair[1].state is State.PENDING, pair[0].id))

    async def _drive(self, job: _Job) -> None:
        """See one job to its end; whatever goes wrong in the store meanwhile, a later turn tries again."""
        try:
            while await self._step(job):
                pass
        except MarsamError as error:
            _log.warning("%s %s: %s", self._kind, job.id, error)
            await asyncio.sleep(self._policy.backoff_s)
        except Exception:  # in the work's own code: said, and tried again no sooner than any other fault
            _log.exception("%s %s", self._kind, job.id)
            await asyncio.sleep(max(1.0, self._policy.backoff_s))
        finally:
            self._tasks.pop(job.key, None)
            self.wake()

    async def _step(self, job: _Job) -> bool:
        """See one attempt to its end; False when the job needs nothing more from here."""
        try:
            head = await job.store.head(job.id)
            if head.state is State.PENDING:
                head = await job.store.append(job.id, head, State.STARTING, owner=self._owner)
            if head.state.terminal or head.owner != self._owner:
                return False
            await self._attempt(job, head)
        except Conflict:  # somebody else moved the job: look again
            pass
        return True

    async def _attempt(self, job: _Job, head: Transition) -> None:
        """See the attempt of `head` to its end and record what that means."""
        try:
            handle = await self._find_or_start(job, head)
        except MarsamError as error:
            # No answer says nothing about the job, nor does a refusal about a program that has begun: try again later.
            if isinstance(error, Unavailable | OutcomeUnknown | Deadline) or head.state is not State.STARTING:
                raise
            await self._record(job, head.attempt, Outcome(state=State.FAILED, reason=error.reason, message=str(error)))
            return
        if handle is None:
            await self._outlast(job, head)
            ended: Ended | None = Ended(attempt=head.attempt, exit=Exit(cause=Cause.LOST))
        else:
            self._handles[job.key] = handle
            ended = await self._follow(job, head, handle)
            self._handles.pop(job.key, None)
        if ended is None:
            return
        outcome = await self._work.judge(job.store, job.id, ended)
        await self._record(job, head.attempt, outcome)
        with contextlib.suppress(MarsamError):  # what a launcher remembers of an attempt that is over helps nobody
            await self._launcher.forget(program_key(job.store, job.id, head.attempt))
        if outcome.state is State.PENDING:
            await asyncio.sleep(min(60.0, self._policy.backoff_s * 2 ** (head.attempt - 1)))

    async def _find_or_start(self, job: _Job, head: Transition) -> Handle | None:
        """Return the attempt's program; None when it was started, and is not to be found."""
        key = program_key(job.store, job.id, head.attempt)
        found = await self._launcher.adopt(key)
        if found is not None or head.state is not State.STARTING:
            return found
        program = await self._work.program(job.store, job.id, head.attempt)
        start = asyncio.create_task(self._launcher.start(program, key=key))
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)
        try:
            return await asyncio.shield(start)
        except Exists:
            return await self._launcher.adopt(key)

    async def _outlast(self, job: _Job, head: Transition) -> None:
        """Wait until a program that the launcher knows nothing of gives no sign of life: two must not run at once."""
        while self._policy.silence_s is not None:
            beat = await read_heartbeat(job.store, job.id, head.attempt)
            if (
                beat is None
                or beat.age_s > self._policy.silence_s
                or not self._holds(await job.store.head(job.id), head)
            ):
                return
            await asyncio.sleep(self._policy.poll_s)

    def _holds(self, now: Transition, head: Transition) -> bool:
        """Say whether the attempt of `head` is still this supervisor's to drive."""
        return (now.attempt, now.owner) == (head.attempt, self._owner) and now.state in _UNDER_WAY

    async def _follow(self, job: _Job, head: Transition, handle: Handle) -> Ended | None:
        """Wait for the program's end; on the way tell that it runs, pass a cancel on, and notice silence.

        None means that another attempt took the place of this one: its program is stopped, its end tells nothing.
        """
        attempt = head.attempt
        following = asyncio.create_task(self._launcher.follow(handle))
        pulse = Pulse(self._clock, start_s=self._policy.start_s, silence_s=self._policy.silence_s)
        try:
            while True:
                await asyncio.wait([following], timeout=self._policy.poll_s)
                if following.done():
                    return Ended(attempt=attempt, exit=await following)
                try:
                    now = await job.store.head(job.id)
                    if not self._holds(now, head):
                        await self._launcher.stop(handle, grace_s=0)
                        return None
                    beat = await read_heartbeat(job.store, job.id, attempt)
                    if beat is None and now.state is State.STARTING and (waits := await self._launcher.waiting(handle)):
                        now = await tell_wait(job.store, job.id, now, waits)
                        pulse.excuse()
                    elif now.state is State.STARTING and (beat is not None or self._policy.silence_s is None):
                        now = await job.store.append(job.id, now, State.RUNNING, message=handle.place)
                except Conflict:
                    continue
                except MarsamError as error:  # the program may well go on while the store is away, and cannot say so
                    _log.warning("%s %s: %s", self._kind, job.id, error)
                    pulse.excuse()
                    continue
                silent = pulse.silent(beat.modified if beat is not None else None)
                if now.state is State.CANCELLING or silent:
                    exit_ = await self._launcher.stop(handle, grace_s=self._policy.grace_s)
                    return Ended(attempt=attempt, exit=exit_, silent=silent)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _record(self, job: _Job, attempt: int, outcome: Outcome) -> None:
        """Append what an attempt's end means, unless it is over; after a cancel, all but success means CANCELLED."""
        while True:
            head = await job.store.head(job.id)
            if head.attempt != attempt or head.state not in _UNDER_WAY:
                return
            state = outcome.state
            if head.state is State.CANCELLING and state is not State.SUCCEEDED:
                state = State.CANCELLED
            with contextlib.suppress(Conflict):
                await job.store.append(
                    job.id, head, state, reason=outcome.reason, message=outcome.message, detail=outcome.detail
                )
                return

    async def _mind_foreign(self, job: _Job, head: Transition) -> None:
        """Leave a job to its owner, or take it over when its owner and its program have been silent for too long."""
        if self._policy.silence_s is None:
            return
        beat = await read_heartbeat(job.store, job.id, head.attempt)
        quiet_s = beat.age_s if beat is not None else (self._clock.now() - head.at).total_seconds()
        if quiet_s <= self._policy.start_s + self._policy.silence_s:
            return
        state = State.CANCELLED if head.state is State.CANCELLING else State.PENDING
        with contextlib.suppress(Conflict):
            await job.store.append(job.id, head, state, owner=self._owner, reason="OWNER_LOST",
                                   message=f"'{head.owner}' gave no sign of life for {quiet_s:.0f} s")  # fmt: skip
        self.wake()
