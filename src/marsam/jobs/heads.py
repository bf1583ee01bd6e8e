"""Where many jobs stand."""

import asyncio

from marsam.core.errors import Missing
from marsam.jobs.states import Transition
from marsam.jobs.store import JobStore


async def gather_heads(store: JobStore, job_ids: list[str], *, batch: int = 32) -> dict[str, Transition]:
    """Return id → head of the given jobs, `batch` reads at a time; jobs without a first transition are left out."""
    found: dict[str, Transition] = {}
    for at in range(0, len(job_ids), batch):
        some = job_ids[at : at + batch]
        outcomes = await asyncio.gather(*(store.head(job_id) for job_id in some), return_exceptions=True)
        for job_id, outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, Transition):
                found[job_id] = outcome
            elif not isinstance(outcome, Missing):
                raise outcome
    return found
