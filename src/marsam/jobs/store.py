"""Jobs of one kind in one project: create, read, move on, and find those that may be alive."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from marsam.core.clock import Clock
from marsam.core.errors import Conflict, Corrupt, Exists, Missing, Precondition, did_you_mean
from marsam.core.ids import is_ulid, new_ulid
from marsam.core.memory import make_room
from marsam.core.records import dump, load
from marsam.jobs.ended import mark_ended
from marsam.jobs.requests import recall, remember
from marsam.jobs.states import State, Transition, check_move
from marsam.store import keys
from marsam.store.blobs import Blobs, create_surely, names
from marsam.store.keys import JobKind
from marsam.store.numbered import NumberedLog
from marsam.telemetry import Meter, metrics

_log = logging.getLogger(__name__)
_TRIES = 20
_SEEN_KEPT = 4096
"""Jobs of which the number of the last known transition is remembered; of others it is listed, which costs one call."""


class JobStore:
    """The jobs under `p/{project}/{kind}`. Every method is safe among processes; the store decides who was first.

    A job's mark under `open/` is made before its first transition and removed after its last, so the marks are always a
    superset of the jobs that are alive, and a restarted service finds its work by listing a handful of names. A job
    that ends gets a mark of that before (`marsam.jobs.ended`).

    Waiting jobs are taken in the order of their ids, which is that of their creation: a job that is tried again or
    resumed is as old as it was, so it goes before every job that was created after it. `meter` counts the transitions
    that are written here.
    """

    def __init__(self, blobs: Blobs, project: str, kind: JobKind, clock: Clock, *, meter: Meter | None = None) -> None:
        self.blobs = blobs
        self.project = project
        self.kind: JobKind = kind
        self.clock = clock
        self._meter = meter
        self._seen: dict[str, int] = {}

    async def create(
        self,
        *,
        request: bytes,
        request_id: str,
        spec_for: Callable[[str], bytes],
        reserve: Callable[[str], Awaitable[None]] | None = None,
    ) -> tuple[str, bool]:
        """Make a PENDING job and return (its ULID, whether it is new).

        `request` is what the caller asked, in canonical bytes without anything the service chose; `spec_for(ulid)`
        gives the spec to store. The same `request_id` again returns the first job; if a crash left that half-made, it
        is completed. An empty `request_id` means that the caller will not ask again. `reserve(ulid)` takes what the job
        must have for itself before it is there; what it raises, this raises, and no job is made.

        Raises Exists (REQUEST_ID_REUSED) when the id stands for another request.
        """
        job_id, new = await remember(
            self.blobs,
            self.project,
            scope=self._scope,
            request_id=request_id or new_ulid(self.clock),
            content=request,
            result=new_ulid(self.clock),
            clock=self.clock,
        )
        if not new and await self._exists(job_id):
            return job_id, False
        if reserve is not None:
            await reserve(job_id)
        await self._mark(job_id)
        try:
            await create_surely(self.blobs, keys.job_spec(self.project, self.kind, job_id), spec_for(job_id))
        except Exists:  # another caller of the same request came first; its spec holds
            new = False
        await self._begin(job_id)
        return job_id, new

    async def known(self, *, request: bytes, request_id: str) -> str | None:
        """Return the job that `request_id` stands for, completed if a crash left it half-made; None when there is none.

        To be asked before a request is checked against things that may be gone, or taken, when it comes again. Raises
        Exists (REQUEST_ID_REUSED).
        """
        scope = self._scope
        job_id = await recall(self.blobs, self.project, scope=scope, request_id=request_id, content=request)
        if job_id is None or not await self._has_spec(job_id):
            return None
        spec = await self.spec(job_id)
        return (await self.create(request=request, request_id=request_id, spec_for=lambda _: spec))[0]

    async def spec(self, job_id: str) -> bytes:
        """Return what the job was asked to do. Raises Missing (JOB_NOT_FOUND)."""
        try:
            return await self.blobs.get(keys.job_spec(self.project, self.kind, job_id))
        except Missing as error:
            raise await self._missing(job_id) from error

    async def head(self, job_id: str) -> Transition:
        """Return the job's last transition: where it stands. Raises Missing (JOB_NOT_FOUND)."""
        found = await self._log(job_id).head(self._seen.get(job_id, 0))
        if found is None:
            raise await self._missing(job_id)
        self._remember(job_id, found[0])
        return load(Transition, found[1], what=f"transition {found[0]} of {job_id}")

    async def history(self, job_id: str) -> list[Transition]:
        """Return every transition, oldest first. Raises Missing (JOB_NOT_FOUND)."""
        entries = await self._log(job_id).read_all()
        if not entries:
            raise await self._missing(job_id)
        return [load(Transition, data, what=f"transition of {job_id}") for data in entries]

    async def append(
        self,
        job_id: str,
        previous: Transition,
        state: State,
        *,
        owner: str = "",
        reason: str = "",
        message: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> Transition:
        """Move the job on from `previous`, the caller's last look at it, and return the new transition.

        STARTING opens the next attempt; every other state stays in the attempt of `previous`.

        Raises Precondition (JOB_STATE) for a move that there is not, Conflict (JOB_MOVED) when somebody else moved the
        job since: read the head and decide again.
        """
        attempt = previous.attempt + (1 if state is State.STARTING else 0)
        check_move(previous, state, attempt)
        entry = Transition(
            seq=previous.seq + 1,
            state=state,
            attempt=attempt,
            writer_id=new_ulid(self.clock),
            at=self.clock.now(),
            owner=owner or previous.owner,
            reason=reason,
            message=message,
            detail=detail or {},
        )
        reopened = previous.state.terminal
        if reopened:
            await self._mark(job_id)
        try:
            await self._write(job_id, entry)
        except Conflict as error:
            if reopened:
                await self._unmark_ended(job_id)
            raise Conflict(f"{self.kind} {job_id} was moved on by somebody else", reason="JOB_MOVED",
                           resource=job_id, remedy="read its state and decide again") from error  # fmt: skip
        if reopened:  # whoever closed it may have removed the mark in between
            await self._mark(job_id)
            await self._unmark_ended(job_id)
        if state.terminal:
            await self.close(job_id, entry)
        return entry

    async def move(
        self,
        job_id: str,
        decide: Callable[[Transition], State | None],
        *,
        owner: str = "",
        reason: str = "",
        message: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> Transition:
        """Move the job to what `decide(head)` says, deciding again whenever somebody else was faster; None leaves it.

        Returns the head that results. Raises Precondition (JOB_STATE) as for `append`.
        """
        for _ in range(_TRIES):
            head = await self.head(job_id)
            state = decide(head)
            if state is None:
                return head
            try:
                return await self.append(
                    job_id, head, state, owner=owner, reason=reason, message=message, detail=detail
                )
            except Conflict:
                continue
        raise Conflict(f"{self.kind} {job_id} keeps being moved on by others", reason="JOB_MOVED", resource=job_id)

    async def check_fence(self, job_id: str, attempt: int) -> Transition:
        """Return the head if `attempt` is still the one that may write, for the running program to ask now and then.

        Raises Precondition (JOB_FENCED) when a later attempt began or the job is over.
        """
        head = await self.head(job_id)
        if head.attempt != attempt or head.state.terminal:
            raise Precondition(
                f"attempt {attempt} of {job_id} is over: the job is {head.state} in attempt {head.attempt}",
                reason="JOB_FENCED",
                resource=job_id,
            )
        return head

    async def ids(self) -> list[str]:
        """Return the ids of all jobs, oldest first."""
        return [n for n in await names(self.blobs, keys.jobs(self.project, self.kind), folders=True) if is_ulid(n)]

    async def open_ids(self) -> list[str]:
        """Return the ids of jobs that may be alive, oldest first."""
        return [
            n for n in await names(self.blobs, keys.open_jobs(self.project, self.kind), folders=False) if is_ulid(n)
        ]

    async def live(self) -> dict[str, Transition]:
        """Return id → head of every job that is alive, oldest first, and mend what crashes left behind.

        A job whose spec was written but not its first transition begins now; a mark left on a finished job goes. One
        whose log cannot be read is logged and left out: it must not hide the others.
        """
        found: dict[str, Transition] = {}
        for job_id in await self.open_ids():
            try:
                head = await self.head(job_id)
            except Missing:
                if not await self._has_spec(job_id):
                    continue  # still being made, or never will be; its request id completes it
                await self._begin(job_id)
                head = await self.head(job_id)
            except Corrupt as error:
                _log.error("%s %s is passed over: %s", self.kind, job_id, error)
                continue
            if head.state.terminal:
                await self.close(job_id, head)
            else:
                found[job_id] = head
        return found

    async def close(self, job_id: str, last: Transition) -> None:
        """Mark a job as ended by `last`, and no more as open; put that mark back if somebody resumed it meanwhile."""
        while True:
            await mark_ended(self.blobs, self.project, self.kind, job_id, last)
            await self.blobs.delete([keys.open_job(self.project, self.kind, job_id)])
            head = await self.head(job_id)
            if head.seq == last.seq:
                return
            if not head.state.terminal:
                await self._mark(job_id)
                head = await self.head(job_id)
                if not head.state.terminal:  # else it ended again before it was marked
                    return
            last = head

    @property
    def _scope(self) -> str:
        """The scope of this kind's request ids."""
        return f"create {self.kind}"

    def _log(self, job_id: str) -> NumberedLog:
        return NumberedLog(self.blobs, keys.job_log(self.project, self.kind, job_id))

    async def _mark(self, job_id: str) -> None:
        await create_surely(self.blobs, keys.open_job(self.project, self.kind, job_id), job_id.encode())

    async def _unmark_ended(self, job_id: str) -> None:
        """After a mark: the job may have been ended, and its mark removed, before that came."""
        head = await self.head(job_id)
        if head.state.terminal:
            await self.close(job_id, head)

    async def _begin(self, job_id: str) -> None:
        first = Transition(
            seq=1, state=State.PENDING, attempt=0, writer_id=new_ulid(self.clock), at=self.clock.now(), reason="CREATED"
        )
        try:
            await self._write(job_id, first)
        except Conflict:  # another caller of the same request, or `live`, began it
            return

    async def _write(self, job_id: str, entry: Transition) -> None:
        """Write a transition: the one place where a job moves. Raises Conflict when its number is taken."""
        await self._log(job_id).append(entry.seq - 1, dump(entry))
        self._remember(job_id, entry.seq)
        if self._meter is not None:
            self._meter.inc(metrics.JOB_TRANSITIONS, kind=self.kind, state=entry.state)

    def _remember(self, job_id: str, seq: int) -> None:
        if self._seen.pop(job_id, None) is None:
            make_room(self._seen, _SEEN_KEPT)
        self._seen[job_id] = seq

    async def _exists(self, job_id: str) -> bool:
        try:
            await self.head(job_id)
        except Missing:
            return False
        return True

    async def _has_spec(self, job_id: str) -> bool:
        try:
            await self.blobs.stat(keys.job_spec(self.project, self.kind, job_id))
        except Missing:
            return False
        return True

    async def _missing(self, job_id: str) -> Missing:
        singular = self.kind.removesuffix("s")
        return Missing(f"no {singular} '{job_id}' in project '{self.project}'", reason="JOB_NOT_FOUND",
                       resource=f"projects/{self.project}/{self.kind}/{job_id}",
                       remedy=did_you_mean(job_id, (await self.ids())[-100:]))  # fmt: skip
