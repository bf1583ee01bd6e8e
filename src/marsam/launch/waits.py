"""What a launched program waits for, told in its job's log: why nothing happens is part of the record."""

from dataclasses import replace
from datetime import timedelta

from marsam.core.errors import Conflict
from marsam.core.ids import new_ulid
from marsam.core.records import dump
from marsam.jobs.states import Transition
from marsam.jobs.store import JobStore
from marsam.launch.launcher import Waiting
from marsam.store import keys
from marsam.store.numbered import NumberedLog

_AGAIN = timedelta(seconds=60)
"""The same wait in other words (one node more, one less) is told again no sooner than this."""


async def tell_wait(store: JobStore, job_id: str, head: Transition, waits: Waiting) -> Transition:
    """Add an entry that stays in the state and attempt of `head` and says what its program waits for, if that is news.

    Returns the new head, or `head`. Raises Conflict (JOB_MOVED) when somebody else moved the job.
    """
    known = waits.reason == head.reason
    if not waits.message or (known and (waits.message == head.message or store.clock.now() - head.at < _AGAIN)):
        return head
    entry = replace(
        head,
        seq=head.seq + 1,
        writer_id=new_ulid(store.clock),
        at=store.clock.now(),
        reason=waits.reason,
        message=waits.message,
    )
    try:
        await NumberedLog(store.blobs, keys.job_log(store.project, store.kind, job_id)).append(head.seq, dump(entry))
    except Conflict as error:
        raise Conflict(f"{store.kind} {job_id} was moved on by somebody else", reason="JOB_MOVED") from error
    return entry
