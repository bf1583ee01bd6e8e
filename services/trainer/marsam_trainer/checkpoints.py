"""The checkpoints that a run has in the store. Reads their marks only: a checkpoint without one does not count."""

from dataclasses import dataclass
from datetime import datetime

from marsam.catalog.checkpoints import MARK, Checkpoint, checkpoints
from marsam.core.errors import Corrupt, Missing
from marsam.core.records import load
from marsam.store.blobs import Blobs, names


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A whole checkpoint: of which attempt, after how many steps, bytes of its state, and when it was committed."""

    attempt: int
    step: int
    size: int
    at: datetime


async def list_checkpoints(blobs: Blobs, project: str, run_id: str, *, attempts: int) -> list[CheckpointInfo]:
    """Every whole checkpoint of attempts 1 to `attempts`, in the order of steps; a resume begins at the last one."""
    found = []
    for attempt in range(1, attempts + 1):
        folder = checkpoints(project, run_id, attempt)
        for step in await names(blobs, folder, folders=True):
            async for entry in blobs.children(f"{folder}/{step}"):
                if entry.name != MARK or entry.modified is None:
                    continue
                try:
                    mark = load(Checkpoint, await blobs.get(f"{folder}/{step}/{MARK}"), what=f"checkpoint {step}")
                except (Missing, Corrupt):  # dropped since it was listed; or of no use: a resume passes it over too
                    continue
                found.append(CheckpointInfo(attempt=attempt, step=mark.step, size=mark.state_size, at=entry.modified))
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.attempt))
