"""The import jobs of all projects: recorded, run one after another, taken up again when whoever drove them is gone,
watched.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from marsam.catalog.datasets import Rights
from marsam.catalog.imports import ImportSpec, Listing, Received
from marsam.catalog.repository import load_dataset
from marsam.core.clock import Clock
from marsam.core.errors import Conflict, Internal, MarsamError
from marsam.core.names import format_name, parse
from marsam.core.records import canonical, dump, load, to_plain
from marsam.imaging.pool import DecodePool
from marsam.jobs.progress import heartbeat, read_events, read_heartbeat
from marsam.jobs.states import State, Transition
from marsam.jobs.store import JobStore
from marsam.jobs.watch import watch
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.store.content import put_blob
from marsam.telemetry import Log, Meter, metrics
from marsam_dataset.ingest.importing import Attempt
from marsam_dataset.ingest.records import Tally

_LOG = Log("marsam.dataset.imports")
_STOP_S = 10.0
_AGAIN_S = 5.0
"""Pause before an import is tried again whose standing could not be recorded: the store was full, or away."""
LEASE_S = 15.0
"""An import whose driver has shown no sign of life for so long is free to be taken up; one comes every third of it."""
_FENCED = "JOB_FENCED"
_MOST_ATTEMPTS = 20
"""Restarts that one import outlives: an import that takes the service down must not do so for ever."""


class Imports:
    """Use as an async context manager: entering takes up what nobody drives, leaving stops the attempt and hands its
    job back.

    Several processes may do so over one store, each with an `owner` of its own: a job that another one drives is left
    alone as long as that shows signs of life, and followed with a new attempt that goes on when it has not for
    `lease_s`. A process that was only slow finds itself fenced, and stops.
    """

    def __init__(
        self,
        blobs: Blobs,
        *,
        pool: DecodePool,
        workers: int,
        owner: str,
        clock: Clock,
        meter: Meter,
        lease_s: float = LEASE_S,
    ) -> None:
        self._blobs = blobs
        self._pool = pool
        self._workers = workers
        self._owner = owner
        self._lease_s = lease_s
        self._clock = clock
        self._meter = meter
        self._rate = meter.rate(metrics.IMPORT_IMAGES_PER_SECOND)
        meter.begin(metrics.DECODE_SECONDS)
        meter.begin(metrics.IMPORT_FILES, verdict="accepted", reason="")
        self._stores: dict[str, JobStore] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Imports":
        await self._look()
        self._looking = asyncio.create_task(self._keep_looking(), name="imports.look")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._looking is not None
        tasks = [self._looking, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_STOP_S)

    async def create(
        self, dataset: str, files: Sequence[Received], *, default_rights: Rights, request_id: str
    ) -> tuple[str, Tally]:
        """Record an import of received files and start it; return its name and where it stands.

        The same `request_id` with the same files returns the first import. Raises Missing for an unknown dataset,
        Exists (REQUEST_ID_REUSED).
        """
        await load_dataset(self._blobs, dataset)
        project = parse(dataset, "dataset").project
        store = self._store(project)
        listing = await put_blob(self._blobs, project, dump(Listing(files=tuple(files))))
        spec = ImportSpec(dataset=dataset, listing=listing.digest, files=len(files), default_rights=default_rights)
        asked = canonical(to_plain(spec))
        job_id, _ = await store.create(request=asked, request_id=request_id, spec_for=lambda _: dump(spec))
        self._start(project, job_id)
        name = format_name("import", project, job_id)
        return name, await self.tally(name)

    async def tally(self, name: str) -> Tally:
        """Return where an import stands. Raises Missing (JOB_NOT_FOUND)."""
        parts = parse(name, "import")
        store = self._store(parts.project)
        tally = Tally(spec=load(ImportSpec, await store.spec(parts.id), what=name))
        head = await store.head(parts.id)
        for attempt in range(1, head.attempt + 1):
            tally.events((await read_events(store, parts.id, attempt))[0])
        tally.transition(head)
        return tally

    async def watch(self, name: str) -> AsyncIterator[Tally]:
        """Yield where an import stands, at once and after each change, until it is over. Raises Missing.

        Each is the whole: the first one takes in every attempt before it is told.
        """
        parts = parse(name, "import")
        store = self._store(parts.project)
        tally = Tally(spec=load(ImportSpec, await store.spec(parts.id), what=name))
        placed = False
        async for update in watch(store, parts.id):
            tally.events(update.events)
            if update.transition is not None:
                tally.transition(update.transition)
                placed = True
            if placed:
                yield tally

    async def _look(self) -> None:
        """Start whatever is alive; what another process drives is left to it as soon as that is read."""
        for project in await names(self._blobs, keys.projects(), folders=True):
            for job_id in await self._store(project).live():
                self._start(project, job_id)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 2)
            try:
                await self._look()
            except MarsamError as error:
                _LOG.warning("imports.not_seen", reason=error.reason, message=error.message)

    def _store(self, project: str) -> JobStore:
        if project not in self._stores:
            self._stores[project] = JobStore(self._blobs, project, "imports", self._clock, meter=self._meter)
        return self._stores[project]

    def _start(self, project: str, job_id: str) -> None:
        if job_id in self._tasks:
            return
        task = asyncio.create_task(self._drive(self._store(project), job_id), name=f"import.{job_id}")
        self._tasks[job_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job_id, None))
        self._count()

    def _count(self) -> None:
        self._meter.set(metrics.QUEUE_DEPTH, max(0, len(self._tasks) - 1), queue="imports")

    async def _drive(self, store: JobStore, job_id: str) -> None:
        while not await self._decide(store, job_id):  # noqa: ASYNC110  # each turn works; the pause is between two
            await asyncio.sleep(_AGAIN_S)

    async def _decide(self, store: JobStore, job_id: str) -> bool:
        """Bring a job to its end when its turn comes; False when its standing could not be recorded."""
        async with self._turn:
            self._count()
            try:
                running = await self._begin(store, job_id)
                if running is not None:
                    await self._run(store, job_id, running)
            except MarsamError as error:
                if isinstance(error, Conflict) or error.reason == _FENCED:
                    _LOG.warning("import.taken_over", job=job_id)  # another process drives it now
                    return True
                _LOG.error("import.undecided", job=job_id, reason=error.reason, message=error.message)
                return False
        return True

    async def _begin(self, store: JobStore, job_id: str) -> Transition | None:
        """Open the next attempt, whatever became of the one before; None when the job is over, or another's."""
        head = await store.head(job_id)
        if head.state.terminal:
            await store.close(job_id, head)
            return None
        if head.state is not State.PENDING and head.owner != self._owner and await self._is_driven(store, job_id, head):
            return None
        if head.attempt >= _MOST_ATTEMPTS:
            message = f"{head.attempt} attempts ended without an end of the import; send the files in smaller parts."
            await self._move(store, job_id, head, State.FAILED, reason="IMPORT_KEEPS_DYING", message=message)
            return None
        if head.state is not State.PENDING:
            head = await self._move(store, job_id, head, State.PENDING, reason="TAKEN_UP_AGAIN")
        head = await self._move(store, job_id, head, State.STARTING)
        await heartbeat(store, job_id, head.attempt, {"owner": self._owner})
        return await self._move(store, job_id, head, State.RUNNING)

    async def _is_driven(self, store: JobStore, job_id: str, head: Transition) -> bool:
        """Whether the owner of a started job has shown a sign of life lately: a heartbeat, or the start itself."""
        beat = await read_heartbeat(store, job_id, head.attempt)
        age_s = (self._clock.now() - head.at).total_seconds() if beat is None else beat.age_s
        return age_s < self._lease_s

    async def _run(self, store: JobStore, job_id: str, running: Transition) -> None:
        attempt = Attempt(
            store,
            job_id,
            running.attempt,
            pool=self._pool,
            workers=self._workers,
            meter=self._meter,
            rate=self._rate,
        )
        _LOG.info("import.started", job=job_id, attempt=running.attempt)
        try:
            message = await self._tended(store, job_id, running.attempt, attempt)
        except asyncio.CancelledError:
            with contextlib.suppress(MarsamError):  # whoever comes next waits for the lease to end, then
                await self._move(store, job_id, running, State.PENDING, reason="SERVICE_STOPPED")
            raise
        except MarsamError as error:
            if error.reason == _FENCED:
                raise
            await self._move(store, job_id, running, State.FAILED, reason=error.reason, message=str(error))
            _LOG.error("import.failed", job=job_id, reason=error.reason, message=error.message)
        except Exception as error:
            _LOG.exception("import.bug", job=job_id)
            bug = Internal(f"the import stopped on a fault of Marsam: {type(error).__name__}")
            await self._move(store, job_id, running, State.FAILED, reason=bug.reason, message=bug.message)
        else:
            await self._move(store, job_id, running, State.SUCCEEDED, message=message)
            _LOG.info("import.done", job=job_id, message=message)

    async def _tended(self, store: JobStore, job_id: str, number: int, attempt: Attempt) -> str:
        """Run the attempt with a sign of life now and then. Raises Precondition (JOB_FENCED) once another has it."""
        working = asyncio.create_task(attempt.run(), name=f"import.{job_id}.attempt")
        try:
            while True:
                await asyncio.wait({working}, timeout=self._lease_s / 3)
                if working.done():
                    return working.result()
                try:
                    await heartbeat(store, job_id, number, {"owner": self._owner})
                    await store.check_fence(job_id, number)
                except MarsamError as error:
                    if error.reason == _FENCED:
                        raise
                    # The store is full, or away for a while: the work itself will tell.
                    _LOG.warning("import.no_sign_of_life", job=job_id, reason=error.reason, message=error.message)
        finally:
            working.cancel()
            await asyncio.wait({working})

    async def _move(
        self, store: JobStore, job_id: str, head: Transition, state: State, *, reason: str = "", message: str = ""
    ) -> Transition:
        return await store.append(job_id, head, state, owner=self._owner, reason=reason, message=message)
