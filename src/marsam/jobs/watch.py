"""Following a job: first where it stands, then what changes, with a token to go on from after a broken connection."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from marsam.core.errors import Expired, Invalid
from marsam.jobs.progress import read_events
from marsam.jobs.states import Transition
from marsam.jobs.store import JobStore


@dataclass(frozen=True, kw_only=True)
class Update:
    """What is new. `transition` is None when only events came; `token` goes on from after this update.

    `attempt` is whose events they are.
    """

    transition: Transition | None
    attempt: int
    events: tuple[dict[str, Any], ...]
    token: str


async def watch(store: JobStore, job_id: str, *, token: str = "", poll_s: float = 0.5) -> AsyncIterator[Update]:
    """Yield a snapshot (the head, and every event of every attempt), then each change, until the job is over.

    With the `token` of an earlier update only what came after it is sent. When a new attempt begins, its events follow
    those of the old one. The stream ends after the terminal transition; a resumed job is watched anew.

    Raises Missing (JOB_NOT_FOUND); Invalid (TOKEN_MALFORMED), Expired (TOKEN_AHEAD) for a token that fits no such job.
    """
    head = await store.head(job_id)
    seq, attempt, segment = _parse(token) if token else (head.seq - 1, min(1, head.attempt), 1)
    if seq > head.seq or attempt > head.attempt:
        raise Expired("the token is ahead of the job", reason="TOKEN_AHEAD", field="resume_token")
    while True:
        # The head is read first: whatever an attempt wrote before its last transition is then seen before that is told.
        head = await store.head(job_id)
        while True:
            events, following = await read_events(store, job_id, attempt, segment) if attempt else ([], 1)
            moved = head.seq > seq and attempt == head.attempt
            if events or moved:
                seq, segment = (head.seq if moved else seq), following
                token = f"{seq}.{attempt}.{segment}"
                yield Update(transition=head if moved else None, attempt=attempt, events=tuple(events), token=token)
            if attempt >= head.attempt:
                break
            attempt, segment = attempt + 1, 1
        if head.state.terminal:
            return
        await asyncio.sleep(poll_s)


def _parse(token: str) -> tuple[int, int, int]:
    parts = token.split(".")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) <= 8 for p in parts) or parts[2] == "0":
        raise Invalid(f"'{token[:40]}' is no resume token", reason="TOKEN_MALFORMED", field="resume_token")
    seq, attempt, segment = map(int, parts)
    return seq, attempt, segment
