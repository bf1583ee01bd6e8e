"""One of several services that move the same jobs on at the same time. Run by the soak of the store:

python contender.py URL NAME SEED CLAIMS    work until standard input ends; what it won goes to the file CLAIMS

Every claim is one line: a transition that this contender wrote, or the job that a shared request led to. A line is
written after the store has said yes, so a contender that is killed may have won one transition more than it claims.
"""

import asyncio
import json
import random
import sys
import time
from typing import IO, Any

from marsam.core.clock import SystemClock
from marsam.core.errors import Conflict, Precondition
from marsam.jobs.states import State, Transition, check_move
from marsam.jobs.store import JobStore
from marsam.store.open import open_store

TICK_S = 0.1
"""Contenders wake together at every tenth of a second of the wall clock, so that they meet."""
SHARED_TICKS = 200
"""After so many ticks everybody asks for a new shared job, by the same request id."""
OWN = 0.2
"""Share of the ticks at which a contender also moves its own job on."""
FILLER = "x" * 2_000


class Contender:
    """See the module."""

    def __init__(self, jobs: JobStore, name: str, chance: random.Random, claims: IO[str]) -> None:
        self._jobs = jobs
        self._name = name
        self._chance = chance
        self._claims = claims
        self._own = ""
        self._made = 0

    async def work(self, over: "asyncio.Future[Any]") -> None:
        """Until `over` is done."""
        request, shared = "", ""
        while not over.done():
            await asyncio.sleep(TICK_S - time.time() % TICK_S)
            wanted = f"shared-{int(time.time() / TICK_S) // SHARED_TICKS}"
            if wanted != request:
                request, shared = wanted, await self._create(wanted)
            await self._move(shared, last=False)
            if self._chance.random() < OWN:
                if not self._own or (await self._jobs.head(self._own)).state is State.SUCCEEDED:
                    self._made += 1
                    self._own = await self._create(f"{self._name}-{self._made}")
                await self._move(self._own, last=True)

    async def _create(self, request: str) -> str:
        job_id, _ = await self._jobs.create(
            request=request.encode(), request_id=request, spec_for=lambda _: request.encode()
        )
        self._claim(request=request, job=job_id)
        return job_id

    async def _move(self, job_id: str, *, last: bool) -> None:
        """Move a job to any state that may follow, if nobody else is faster; to SUCCEEDED only where `last`."""
        head = await self._jobs.head(job_id)
        choices = [state for state in State if may_follow(head, state) and (last or state is not State.SUCCEEDED)]
        if not choices:
            return
        try:
            won = await self._jobs.append(job_id, head, self._chance.choice(choices), owner=self._name, message=FILLER)
        except Conflict:
            return
        self._claim(job=job_id, seq=won.seq, state=won.state, writer=won.writer_id)

    def _claim(self, **line: Any) -> None:
        self._claims.write(json.dumps(line) + "\n")
        self._claims.flush()


def may_follow(head: Transition, state: State) -> bool:
    """Whether the rules of a job's life allow it."""
    try:
        check_move(head, state, head.attempt + (1 if state is State.STARTING else 0))
    except Precondition:
        return False
    return True


async def main(url: str, name: str, seed: str, claims: str) -> None:
    jobs = JobStore(open_store(url), "p", "runs", SystemClock())
    over = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    with open(claims, "w", encoding="utf-8") as file:
        await Contender(jobs, name, random.Random(seed), file).work(over)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
