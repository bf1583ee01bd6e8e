"""Who waits, in which place, and how many runs are in which state: a picture of all open runs, renewed now and then.

For showing only. Who starts next is the supervisor's business; it takes the oldest first, as this does.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from marsam.core.errors import MarsamError
from marsam.diffusion import registry
from marsam.jobs.states import State
from marsam.jobs.store import gather_heads
from marsam.telemetry import Log, Meter, metrics
from marsam_trainer.runs import Runs
from marsam_trainer.work import KIND

_LOG = Log(__name__)
_PERIOD_S = 2.0
_PAUSE_S = 0.2
"""Between two renewals that were asked for."""
_ENDED_EVERY = 8
"""Renewals between two counts of the runs that are over: there may be very many of them."""

_OPEN = tuple(state for state in State if not state.terminal)
_ENDS = tuple(state for state in State if state.terminal)


class Queue:
    """The open runs of every project, as of a moment ago."""

    def __init__(self, runs: Runs, *, meter: Meter) -> None:
        self._runs = runs
        self._meter = meter
        self._waiting: set[tuple[str, str]] = set()
        self._open: set[tuple[str, str]] = set()
        self._reasons = {"QUEUED", "STARTING"}
        self._news = asyncio.Event()
        self._turns = 0
        for state in _ENDS:
            meter.begin(metrics.RUN_SECONDS, state=state)
            for method in registry.methods():
                meter.begin(metrics.RUNS_ENDED, state=state, method=method)

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator["Queue"]:
        """Renew the picture while the block runs."""
        task = asyncio.create_task(self._keep(), name="queue")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait({task})

    def wake(self) -> None:
        """Renew the picture soon: something was created, cancelled or resumed."""
        self._news.set()

    def place(self, project: str, run_id: str) -> int:
        """The place of a run that is PENDING, from 1: one more than the older runs that wait too."""
        return 1 + sum(other < (run_id, project) for other in self._waiting)

    async def renew(self) -> None:
        """Look at every open run once."""
        counts: Counter[State] = Counter()
        waiting, found = set(), set()
        ages = dict.fromkeys(self._reasons, 0.0)
        for project in await self._runs.projects():
            store = self._runs.store(project)
            for run_id, head in (await gather_heads(store, await store.open_ids())).items():
                counts[head.state] += 1
                found.add((run_id, project))
                if head.state is State.PENDING:
                    waiting.add((run_id, project))
                if head.state in (State.PENDING, State.STARTING):
                    reason = head.reason or ("QUEUED" if head.state is State.PENDING else "STARTING")
                    age = (self._runs.clock.now() - head.at).total_seconds()
                    ages[reason] = max(age, ages.get(reason, 0.0))
        self._waiting = waiting
        self._reasons |= ages.keys()
        for reason, age in ages.items():
            self._meter.set(metrics.RUNS_WAITING_SECONDS, age, reason=reason)
        gone, self._open = self._open - found, found
        for run_id, project in gone:
            await self._ended(project, run_id)
        self._meter.set(metrics.QUEUE_DEPTH, len(waiting), queue=KIND)
        for state in _OPEN:
            self._meter.set(metrics.JOBS, counts[state], kind=KIND, state=state)
        if self._turns % _ENDED_EVERY == 0:
            await self._count_ended()
        self._turns += 1

    async def _ended(self, project: str, run_id: str) -> None:
        """Count a run that is no longer open."""
        history = await self._runs.history(project, run_id)
        first, head = history[0], history[-1]
        if not head.state.terminal:  # resumed meanwhile: it is open again
            return
        spec = await self._runs.spec(project, run_id)
        self._meter.inc(metrics.RUNS_ENDED, state=head.state, method=spec.method)
        self._meter.observe(metrics.RUN_SECONDS, (head.at - first.at).total_seconds(), state=head.state)

    async def _count_ended(self) -> None:
        indexes = [await self._runs.index(project) for project in await self._runs.projects()]
        for state in _ENDS:
            count = sum(index.count(states=(state,)) for index in indexes)
            self._meter.set(metrics.JOBS, count, kind=KIND, state=state)

    async def _keep(self) -> None:
        while True:
            self._news.clear()
            try:
                await self.renew()
            except MarsamError as error:
                _LOG.warning("queue.not_renewed", reason=error.reason, message=error.message)
            await asyncio.sleep(_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), timeout=_PERIOD_S)
