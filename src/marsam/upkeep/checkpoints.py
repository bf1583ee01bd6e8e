"""Checkpoints of runs that are over: which of them nobody will ever resume from."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime

from marsam.catalog.checkpoints import KEPT, MARK, checkpoints, step_name
from marsam.core.clock import SystemClock
from marsam.core.errors import Missing
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store import keys
from marsam.store.blobs import Blobs, Entry, names


@dataclass(frozen=True, kw_only=True)
class OldCheckpoint:
    """A checkpoint that is of no use: the head's number of its run when that was found, and its objects, whose first
    is the mark that makes it count. `modified` is of the youngest.
    """

    run: str
    seq: int
    objects: tuple[tuple[str, int], ...] = field(default=())
    modified: datetime

    @property
    def size(self) -> int:
        """Bytes of all its objects."""
        return sum(size for _, size in self.objects)


async def old_checkpoints(blobs: Blobs, project: str) -> AsyncIterator[OldCheckpoint]:
    """Yield the checkpoints of ended runs that are beyond what is kept: all of a run that succeeded, which is never
    resumed, and all but the `KEPT` most advanced of one that failed or was cancelled; of a checkpoint without its mark,
    which does not count, the rest.
    """
    store = JobStore(blobs, project, "runs", SystemClock())
    alive = set(await store.open_ids())
    for run in await store.ids():
        if run in alive:
            continue
        try:
            head = await store.head(run)
        except Missing:
            continue
        if not head.state.terminal:
            continue
        found = [each async for each in _checkpoints(blobs, project, run)]
        whole = sorted((at for at, parts in found if any(part.name == MARK for part in parts)), reverse=True)
        kept = set(whole[: 0 if head.state is State.SUCCEEDED else KEPT])
        for (step, attempt), parts in found:
            if (step, attempt) in kept:
                continue
            folder = f"{checkpoints(project, run, attempt)}/{step_name(step)}"
            yield OldCheckpoint(
                run=run,
                seq=head.seq,
                objects=tuple(
                    (f"{folder}/{part.name}", part.size)
                    for part in sorted(parts, key=lambda part: (part.name != MARK, part.name))
                ),
                modified=max(part.modified for part in parts if part.modified is not None),
            )


async def still_old(blobs: Blobs, project: str, run: str, seq: int) -> bool:
    """Whether the log of `run` ends where it did, so that nobody has resumed it since."""
    head = await JobStore(blobs, project, "runs", SystemClock()).head(run)
    return head.state.terminal and head.seq == seq


async def _checkpoints(blobs: Blobs, project: str, run: str) -> AsyncIterator[tuple[tuple[int, int], list[Entry]]]:
    """Yield ((step, attempt), objects) of every checkpoint folder that is not empty."""
    for attempt in await names(blobs, keys.attempts(project, "runs", run), folders=True):
        folder = checkpoints(project, run, int(attempt))
        for step in await names(blobs, folder, folders=True):
            parts = [entry async for entry in blobs.children(f"{folder}/{step}") if not entry.folder]
            if parts:
                yield (int(step), int(attempt)), parts
