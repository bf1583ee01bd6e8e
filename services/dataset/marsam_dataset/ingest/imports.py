"""The import jobs of all projects: recorded, run one after another, taken up again after a restart, watched."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from marsam.catalog.datasets import Rights
from marsam.catalog.repository import load_dataset
from marsam.core.clock import Clock
from marsam.core.errors import Conflict, Internal, MarsamError
from marsam.core.names import format_name, parse
from marsam.core.records import canonical, dump, load, to_plain
from marsam.imaging.pool import DecodePool
from marsam.jobs.progress import read_events
from marsam.jobs.states import State, Transition
from marsam.jobs.store import JobStore
from marsam.jobs.watch import watch
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.store.content import put_blob
from marsam.telemetry import Log, Meter, metrics
from marsam_dataset.ingest.importing import Attempt
from marsam_dataset.ingest.receive import Received
from marsam_dataset.ingest.records import ImportSpec, Listing, Tally

_LOG = Log("marsam.dataset.imports")
_STOP_S = 10.0
_AGAIN_S = 5.0
"""Pause before an import is tried again whose standing could not be recorded: the store was full, or away."""
_MOST_ATTEMPTS = 20
"""Restarts that one import outlives: an import that takes the service down must not do so for ever."""


class Imports:
    """Use as an async context manager: entering takes up what an earlier process left, leaving stops the attempts.

    A stopped attempt leaves its job RUNNING; the next process follows it with a new attempt that goes on.
    """

    def __init__(self, blobs: Blobs, *, pool: DecodePool, workers: int, owner: str, clock: Clock, meter: Meter) -> None:
        self._blobs = blobs
        self._pool = pool
        self._workers = workers
        self._owner = owner
        self._clock = clock
        self._meter = meter
        self._rate = meter.rate(metrics.IMPORT_IMAGES_PER_SECOND)
        meter.begin(metrics.DECODE_SECONDS)
        meter.begin(metrics.IMPORT_FILES, verdict="accepted", reason="")
        self._stores: dict[str, JobStore] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> "Imports":
        for project in await names(self._blobs, keys.projects(), folders=True):
            for job_id in await self._store(project).live():
                self._start(project, job_id)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_STOP_S)

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
        job_id, new = await store.create(request=asked, request_id=request_id, spec_for=lambda _: dump(spec))
        if new:
            self._meter.inc(metrics.JOB_TRANSITIONS, kind="imports", state=State.PENDING)
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
        """Yield where an import stands, at once and after each change, until it is over. Raises Missing."""
        parts = parse(name, "import")
        store = self._store(parts.project)
        tally = Tally(spec=load(ImportSpec, await store.spec(parts.id), what=name))
        async for update in watch(store, parts.id):
            tally.events(update.events)
            if update.transition is not None:
                tally.transition(update.transition)
            yield tally

    def _store(self, project: str) -> JobStore:
        if project not in self._stores:
            self._stores[project] = JobStore(self._blobs, project, "imports", self._clock)
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
            except Conflict:
                _LOG.warning("import.taken_over", job=job_id)  # another process drives it now
            except MarsamError as error:
                _LOG.error("import.undecided", job=job_id, reason=error.reason, message=error.message)
                return False
        return True

    async def _begin(self, store: JobStore, job_id: str) -> Transition | None:
        """Open the next attempt, whatever became of the one before; None when the job is over."""
        head = await store.head(job_id)
        if head.state.terminal:
            await store.close(job_id)
            return None
        if head.attempt >= _MOST_ATTEMPTS:
            message = f"{head.attempt} attempts ended without an end of the import; send the files in smaller parts."
            await self._move(store, job_id, head, State.FAILED, reason="IMPORT_KEEPS_DYING", message=message)
            return None
        if head.state is not State.PENDING:
            head = await self._move(store, job_id, head, State.PENDING, reason="TAKEN_UP_AGAIN")
        head = await self._move(store, job_id, head, State.STARTING)
        return await self._move(store, job_id, head, State.RUNNING)

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
            message = await attempt.run()
        except MarsamError as error:
            await self._move(store, job_id, running, State.FAILED, reason=error.reason, message=str(error))
            _LOG.error("import.failed", job=job_id, reason=error.reason, message=error.message)
        except Exception as error:
            _LOG.exception("import.bug", job=job_id)
            bug = Internal(f"the import stopped on a fault of Marsam: {type(error).__name__}")
            await self._move(store, job_id, running, State.FAILED, reason=bug.reason, message=bug.message)
        else:
            await self._move(store, job_id, running, State.SUCCEEDED, message=message)
            _LOG.info("import.done", job=job_id, message=message)

    async def _move(
        self, store: JobStore, job_id: str, head: Transition, state: State, *, reason: str = "", message: str = ""
    ) -> Transition:
        moved = await store.append(job_id, head, state, owner=self._owner, reason=reason, message=message)
        self._meter.inc(metrics.JOB_TRANSITIONS, kind="imports", state=state)
        return moved
