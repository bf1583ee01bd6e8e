"""Many jobs read at once."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from marsam.core.errors import Missing
from marsam.jobs.states import Transition
from marsam.jobs.store import JobStore

T = TypeVar("T")


async def gather_heads(store: JobStore, job_ids: Sequence[str]) -> dict[str, Transition]:
    """Return id → head of the given jobs; jobs without a first transition are left out."""
    return await gathered(store.head, job_ids)


async def gathered(read: Callable[[str], Awaitable[T]], job_ids: Sequence[str], *, batch: int = 32) -> dict[str, T]:
    """Return id → what `read` gives, `batch` reads at a time; what is Missing is left out."""
    found: dict[str, T] = {}
    for at in range(0, len(job_ids), batch):
        some = job_ids[at : at + batch]
        outcomes = await asyncio.gather(*(read(job_id) for job_id in some), return_exceptions=True)
        for job_id, outcome in zip(some, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                found[job_id] = outcome
            elif not isinstance(outcome, Missing):
                raise outcome
    return found
