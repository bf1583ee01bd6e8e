"""Which jobs have ended, told by names alone: one mark a job, in a folder a day, so that a list opens no ended job.

A job's mark is made after its last transition and before its `open` mark goes. One that is resumed gets another mark
when it ends again: the highest number holds, unless an `open` mark says that the job may be alive.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from marsam.core.errors import Invalid
from marsam.core.ids import check_ulid
from marsam.jobs.states import State, Transition
from marsam.store import keys
from marsam.store.blobs import Blobs, create_surely, names
from marsam.store.keys import JobKind

_DAYS_AT_ONCE = 16
_MOST_DAYS = 60
"""From here on the folders that there are get listed, rather than one for each day that may have one."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Where a job ended: the number and the state of its last transition."""

    seq: int
    state: State


async def mark_ended(blobs: Blobs, project: str, kind: JobKind, job_id: str, last: Transition) -> None:
    """Make the mark of the job's last transition; whoever makes it again makes the same."""
    name = f"{job_id}.{keys.number(last.seq)}.{last.state.lower()}"
    await create_surely(blobs, f"{keys.ended_jobs(project, kind)}/{last.at.date()}/{name}", job_id.encode())


async def ended(blobs: Blobs, project: str, kind: JobKind, *, since: date | None, until: date) -> dict[str, Ended]:
    """Return the marks of the days from `since` to `until`, by job; of all days without `since`."""
    folder = keys.ended_jobs(project, kind)
    if since is None or (until - since).days >= _MOST_DAYS:
        days = [day for day in await names(blobs, folder, folders=True) if since is None or day >= str(since)]
    else:
        days = [str(since + timedelta(days=n)) for n in range((until - since).days + 1)]
    found: dict[str, Ended] = {}
    for at in range(0, len(days), _DAYS_AT_ONCE):
        some = days[at : at + _DAYS_AT_ONCE]
        for marks in await asyncio.gather(*(names(blobs, f"{folder}/{day}", folders=False) for day in some)):
            _add(found, marks)
    return found


def _add(found: dict[str, Ended], marks: Sequence[str]) -> None:
    """Take marks up; a name that is none is passed over."""
    for mark in marks:
        try:
            job_id, seq, state = mark.split(".")
            one = Ended(seq=int(seq), state=State(state.upper()))
            check_ulid(job_id)
        except (ValueError, Invalid):
            continue
        if job_id not in found or found[job_id].seq < one.seq:
            found[job_id] = one
