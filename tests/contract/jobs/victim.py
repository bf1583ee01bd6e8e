"""A service that is killed in the middle of its work. Run by the crash tests:

python victim.py create URL N before|after    create a job; die before or after the Nth write to the store
python victim.py finish URL N before|after    take the open job from PENDING to SUCCEEDED; die likewise
python victim.py resume URL N before|after    take the failed job back to PENDING; die likewise
python victim.py churn URL                    create jobs and move them on, on and on
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterable, Sequence
from pathlib import Path

from marsam.core.clock import SystemClock
from marsam.jobs.progress import append_events, heartbeat
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store.blobs import Stat
from marsam.store.folder import FolderBlobs


class Dying(FolderBlobs):
    """A store whose process dies before or after its Nth change."""

    left = 0
    after = False

    def _count(self, *, after: bool) -> None:
        if after is self.after:
            Dying.left -= 1
            if Dying.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    async def create(self, key: str, data: bytes) -> None:
        self._count(after=False)
        await super().create(key, data)
        self._count(after=True)

    async def put(self, key: str, source: bytes | Path | AsyncIterable[bytes], *, sha256: str | None = None) -> Stat:
        self._count(after=False)
        stat = await super().put(key, source, sha256=sha256)
        self._count(after=True)
        return stat

    async def delete(self, keys: Sequence[str]) -> None:
        self._count(after=False)
        await super().delete(keys)
        self._count(after=True)


async def create(jobs: JobStore) -> None:
    await jobs.create(request=b"train", request_id="r-1", spec_for=lambda ulid: f"spec {ulid}".encode())


async def finish(jobs: JobStore) -> None:
    for job_id, head in (await jobs.live()).items():
        for state in (State.STARTING, State.RUNNING, State.SUCCEEDED):
            head = await jobs.append(job_id, head, state, owner="victim")


async def resume(jobs: JobStore) -> None:
    (job_id,) = await jobs.ids()
    await jobs.append(job_id, await jobs.head(job_id), State.PENDING)


async def churn(jobs: JobStore) -> None:
    n = 0
    while True:
        n += 1
        job_id, _ = await jobs.create(request=b"train", request_id=f"r-{n}", spec_for=lambda u: f"spec {u}".encode())
        sys.stdout.write(f"{job_id}\n")
        sys.stdout.flush()
        head = await jobs.head(job_id)
        for state in (State.STARTING, State.RUNNING):
            head = await jobs.append(job_id, head, state, owner="victim")
        for segment in (1, 2, 3):
            await heartbeat(jobs, job_id, 1, {"segment": segment, "filler": "x" * 20_000})
            await append_events(jobs, job_id, 1, segment, [{"segment": segment, "filler": "x" * 20_000}])
        if n % 2:
            await jobs.append(job_id, head, State.SUCCEEDED, owner="victim")


def main() -> None:
    act, root = sys.argv[1], Path(sys.argv[2])
    blobs = Dying(root)
    if len(sys.argv) > 3:
        Dying.left, Dying.after = int(sys.argv[3]), sys.argv[4] == "after"
    acts = {"create": create, "finish": finish, "resume": resume, "churn": churn}
    asyncio.run(acts[act](JobStore(blobs, "p", "runs", SystemClock())))


if __name__ == "__main__":
    main()
