"""Asking a job to stop."""

from marsam.jobs.states import State, Transition
from marsam.jobs.store import JobStore


async def ask_to_cancel(store: JobStore, job_id: str, *, owner: str = "", message: str = "") -> Transition:
    """Cancel a job: at once while it waits, through its supervisor while it runs; asking again changes nothing.

    Raises Missing (JOB_NOT_FOUND), Precondition (JOB_STATE) when it ended otherwise.
    """

    def decide(head: Transition) -> State | None:
        if head.state is State.PENDING:
            return State.CANCELLED
        if head.state in (State.CANCELLING, State.CANCELLED):
            return None
        return State.CANCELLING

    return await store.move(job_id, decide, owner=owner, reason="CANCEL_ASKED", message=message)
