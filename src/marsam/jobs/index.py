"""The list of jobs in memory: rebuilt from the store at start, kept fresh by reading only what can have changed.

It holds every job for as long as the job is in the store, so a row is small: what a finished job left (a loss curve,
say) is not part of it, and what was asked is read only when a list is cut by it.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice

from marsam.jobs.ended import ended
from marsam.jobs.heads import gather_heads, gathered
from marsam.jobs.states import State
from marsam.jobs.store import JobStore

LISTED_S = 600.0
"""How often all ids are listed, for jobs that somebody removed. New ones are found by their marks, at every refresh."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One job as far as a list is cut by it: where it stands."""

    job_id: str
    state: State
    seq: int


class Index:
    """Answers lists; decides nothing.

    A `refresh` reads the jobs with an `open` mark, and the names of the marks of those that ended today and yesterday,
    however many ended before. Clocks of services may differ by up to a day.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._rows: dict[str, Row] = {}
        self._ids: list[str] = []
        self._alive: set[str] = set()
        self._specs: dict[str, bytes] = {}
        self._turn = asyncio.Lock()
        self._looked: date | None = None
        self._listed = -LISTED_S

    async def refresh(self) -> None:
        """Bring the list up to date with the store; callers at the same time share the work in turn."""
        async with self._turn:
            store, today = self._store, self._store.clock.now().date()
            # In this order: a job that ends meanwhile is in one of them at least.
            stale = set(await store.open_ids())
            since = self._looked - timedelta(days=1) if self._looked else None
            for job_id, mark in (await ended(store.blobs, store.project, store.kind, since=since, until=today)).items():
                known = self._rows.get(job_id)
                if known is None or known.seq < mark.seq:
                    self._take(Row(job_id=job_id, state=mark.state, seq=mark.seq))
            listed, now = self._listed, time.monotonic()
            if now - listed >= LISTED_S:
                ids, listed = set(await store.ids()), now
                for gone in self._rows.keys() - ids:
                    self._drop(gone)
                stale |= ids - self._rows.keys()
            for job_id, head in (await gather_heads(store, sorted(stale | self._alive))).items():
                self._take(Row(job_id=job_id, state=head.state, seq=head.seq))
            if len(self._ids) != len(self._rows):
                self._ids = sorted(self._rows)
            self._looked, self._listed = today, listed

    def _take(self, row: Row) -> None:
        self._rows[row.job_id] = row
        (self._alive.discard if row.state.terminal else self._alive.add)(row.job_id)

    def _drop(self, job_id: str) -> None:
        del self._rows[job_id]
        self._specs.pop(job_id, None)
        self._alive.discard(job_id)
        self._ids = []

    def page(
        self,
        *,
        size: int | None = None,
        before: str = "",
        states: Collection[State] = (),
        keep: Callable[[Row], bool] | None = None,
    ) -> tuple[list[Row], str]:
        """Return (up to `size` rows or all, newest first, older than job `before`; the next page's `before` or '')."""
        end = bisect_left(self._ids, before) if before else len(self._ids)
        rows = (self._rows[self._ids[place]] for place in range(end - 1, -1, -1))
        fitting = (row for row in rows if (not states or row.state in states) and (keep is None or keep(row)))
        if size is None:
            return list(fitting), ""
        chosen = list(islice(fitting, size + 1))
        return chosen[:size], chosen[size - 1].job_id if len(chosen) > size else ""

    async def specs(self, rows: Sequence[Row]) -> Mapping[str, bytes]:
        """Return what the jobs of `rows` were asked to do, by id; each is read once, gone ones left out."""
        self._specs |= await gathered(self._store.spec, [r.job_id for r in rows if r.job_id not in self._specs])
        return {row.job_id: self._specs[row.job_id] for row in rows if row.job_id in self._specs}
