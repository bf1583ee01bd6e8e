"""The list of jobs in memory: rebuilt from the store at start, kept fresh by reading only what can have changed.

It holds every job for as long as the job is in the store, so a row is small: what a finished job left (a loss curve,
say) is not part of it. A run's row takes about 1 KB, ten thousand of them 10.5 MB (measured).
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from marsam.core.errors import Missing
from marsam.jobs.heads import gather_heads
from marsam.jobs.states import State
from marsam.jobs.store import JobStore


@dataclass(frozen=True, kw_only=True)
class Row:
    """One job as far as a list is cut by it: where it stands and what was asked."""

    job_id: str
    state: State
    seq: int
    spec: bytes


class Index:
    """Answers lists; decides nothing. Finished jobs are read once, open ones and new ones at each `refresh`."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._rows: dict[str, Row] = {}
        self._turn = asyncio.Lock()

    async def refresh(self) -> None:
        """Bring the list up to date with the store; callers at the same time share the work in turn."""
        async with self._turn:
            open_ids = set(await self._store.open_ids())
            ids = await self._store.ids()
            for gone in self._rows.keys() - set(ids):
                del self._rows[gone]
            stale = [
                job_id
                for job_id in ids
                if job_id in open_ids or job_id not in self._rows or not self._rows[job_id].state.terminal
            ]
            heads = await gather_heads(self._store, stale)
            for job_id, head in heads.items():
                known = self._rows.get(job_id)
                try:
                    spec = known.spec if known else await self._store.spec(job_id)
                except Missing:
                    continue
                self._rows[job_id] = Row(job_id=job_id, state=head.state, seq=head.seq, spec=spec)

    def page(
        self,
        *,
        size: int,
        before: str = "",
        states: Collection[State] = (),
        keep: Callable[[Row], bool] | None = None,
    ) -> tuple[list[Row], str]:
        """Return (up to `size` rows, newest first, older than job `before`; the `before` of the next page or '')."""
        chosen = [
            row
            for job_id, row in sorted(self._rows.items(), reverse=True)
            if (not before or job_id < before) and (not states or row.state in states) and (keep is None or keep(row))
        ]
        page = chosen[:size]
        return page, page[-1].job_id if len(chosen) > size else ""

    def count(self, *, states: Collection[State] = ()) -> int:
        """Return how many jobs are in one of `states` (all jobs when empty)."""
        return sum(1 for row in self._rows.values() if not states or row.state in states)
