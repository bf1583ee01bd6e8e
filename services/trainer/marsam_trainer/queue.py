"""Who waits, in which place, and how many runs are in which state: a picture of all open runs, renewed now and then.

For showing only. Who starts next is the supervisor's business; it goes by the order of creation, as this does: a run
that was tried or resumed keeps its place.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable

from marsam.core.errors import MarsamError
from marsam.diffusion import registry
from marsam.jobs.heads import gather_heads
from marsam.jobs.states import State, Transition
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


def _waits_for(head: Transition) -> str:
    """What a run that has not begun waits for: its turn, or what its last transition says."""
    if head.state is State.PENDING:
        return "QUEUED" if head.reason in ("", "CREATED", "RESUMED") else head.reason
    return head.reason or "STARTING"


class Queue:
    """The open runs of every project, as of a moment ago."""

    def __init__(self, runs: Runs, *, meter: Meter) -> None:
        self._runs = runs
        self._meter = meter
        self._waiting: set[tuple[str, str]] = set()
        self._open: set[tuple[str, str]] = set()
        self._over: dict[tuple[str, str], tuple[State, int]] | None = None
        """The runs that are over, with the number of their last transition; None before the first count."""
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
                    reason = _waits_for(head)
                    age = (self._runs.clock.now() - head.at).total_seconds()
                    ages[reason] = max(age, ages.get(reason, 0.0))
        self._waiting = waiting
        self._reasons |= ages.keys()
        for reason, age in ages.items():
            self._meter.set(metrics.RUNS_WAITING_SECONDS, age, reason=reason)
        gone, self._open = self._open - found, found
        self._meter.set(metrics.QUEUE_DEPTH, len(waiting), queue=KIND)
        for state in _OPEN:
            self._meter.set(metrics.JOBS, counts[state], kind=KIND, state=state)
        if gone or self._turns % _ENDED_EVERY == 0:
            await self._count_ended(gone)
        self._turns += 1

    async def _count_ended(self, gone: Iterable[tuple[str, str]]) -> None:
        """Count the runs that are over. Those `gone` from the open ones are read anew: they may have been resumed."""
        over: dict[tuple[str, str], tuple[State, int]] = {}
        for project in await self._runs.projects():
            rows, _ = (await self._runs.index(project)).page(states=_ENDS)
            over |= {(project, row.job_id): (row.state, row.seq) for row in rows}
        for run_id, project in gone:
            head = (await self._runs.history(project, run_id))[-1]
            if head.state.terminal:
                over[project, run_id] = (head.state, head.seq)
        counts = Counter(state for state, _ in over.values())
        for state in _ENDS:
            self._meter.set(metrics.JOBS, counts[state], kind=KIND, state=state)
        before, self._over = self._over, over
        if before is None:  # they ended under earlier services
            return
        for (project, run_id), end in over.items():
            if before.get((project, run_id)) != end:
                await self._count(project, run_id)

    async def _count(self, project: str, run_id: str) -> None:
        """Count a run that has ended, however short it was."""
        first, *_, head = await self._runs.history(project, run_id)
        spec = await self._runs.spec(project, run_id)
        self._meter.inc(metrics.RUNS_ENDED, state=head.state, method=spec.method)
        self._meter.observe(metrics.RUN_SECONDS, (head.at - first.at).total_seconds(), state=head.state)

    async def _keep(self) -> None:
        while True:
            self._news.clear()
            try:
                await self.renew()
            except MarsamError as error:
                _LOG.warning("queue.not_renewed", reason=error.reason, message=error.message)
            await asyncio.sleep(_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PERIOD_S):
                    await self._news.wait()
