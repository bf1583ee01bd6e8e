"""How many evaluations are in which state: counted anew every now and then, for the metrics."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from marsam.core.clock import Clock
from marsam.core.errors import MarsamError
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.telemetry import Log, Meter, metrics

KIND = "evaluations"
PERIOD_S = 2.0
_OPEN = tuple(state for state in State if not state.terminal)
_log = Log(__name__)


@asynccontextmanager
async def counted(blobs: Blobs, *, meter: Meter, clock: Clock) -> AsyncIterator[None]:
    """Keep the gauges of open evaluations while the block runs."""
    task = asyncio.create_task(_keep(blobs, meter, clock), name="evaluations.count")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _keep(blobs: Blobs, meter: Meter, clock: Clock) -> None:
    while True:
        try:
            await count(blobs, meter, clock)
        except MarsamError as error:
            _log.warning("evaluations.not_counted", reason=error.reason, message=error.message)
        await asyncio.sleep(PERIOD_S)


async def count(blobs: Blobs, meter: Meter, clock: Clock) -> None:
    """Look at every open evaluation once and set the gauges."""
    found: Counter[State] = Counter()
    for project in await names(blobs, keys.projects(), folders=True):
        jobs = JobStore(blobs, project, "evaluations", clock)
        found.update(head.state for head in (await jobs.live()).values())
    meter.set(metrics.QUEUE_DEPTH, found[State.PENDING], queue=KIND)
    for state in _OPEN:
        meter.set(metrics.JOBS, found[state], kind=KIND, state=state)
