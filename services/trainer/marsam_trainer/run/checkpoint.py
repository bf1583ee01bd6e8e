"""Checkpoints: one kind, complete, in the object store. The state is a blob written first, the manifest is written
last and makes it count.

A crash between the two leaves the checkpoint before valid. The state's digest is in the manifest and is verified when
it is read. Where each rank holds a part of the model, each writes and reads its own part of the state.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from marsam.catalog.checkpoints import KEPT, MARK, STATE, Checkpoint, checkpoints, state_name, step_name
from marsam.core.errors import Corrupt, Missing
from marsam.core.records import dump, load
from marsam.diffusion.weights.net import save as write
from marsam.store.blobs import Blobs, names
from marsam.store.content import digest_file
from marsam.telemetry.logs import Log
from marsam_trainer.run.ranks import ALONE, World

_log = Log(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run keeps its checkpoints."""

    blobs: Blobs
    project: str
    run: str

    def key(self, attempt: int, step: int, name: str) -> str:
        """The key of one file of a checkpoint."""
        return f"{self.folder(attempt)}/{step_name(step)}/{name}"

    def folder(self, attempt: int) -> str:
        """The folder of an attempt's checkpoints."""
        return checkpoints(self.project, self.run, attempt)


async def save(place: Place, mark: Checkpoint, state: Path) -> None:
    """Write a checkpoint whose state is in the local file `state`, then drop what `KEPT` no longer keeps."""
    await _put(place, mark.attempt, mark.step, STATE, state, mark.state_digest)
    await commit(place, mark)


async def save_part(place: Place, attempt: int, step: int, state: Path, digest: str, *, rank: int, of: int) -> None:
    """Write one rank's part of a state; `commit` makes it count when all are there."""
    await _put(place, attempt, step, state_name(rank, of), state, digest)


async def _put(place: Place, attempt: int, step: int, name: str, state: Path, digest: str) -> None:
    await place.blobs.put(place.key(attempt, step, name), state, sha256=digest.removeprefix("sha256:"))


async def commit(place: Place, mark: Checkpoint) -> None:
    """Write the mark of a checkpoint whose state is there, then drop what `KEPT` no longer keeps."""
    await place.blobs.create(place.key(mark.attempt, mark.step, MARK), dump(mark))
    steps = await names(place.blobs, place.folder(mark.attempt), folders=True)
    for step in steps[:-KEPT]:
        # The mark first: a checkpoint without it does not count, one without its state would be a trap.
        await place.blobs.delete([place.key(mark.attempt, int(step), MARK)])
        states = await names(place.blobs, f"{place.folder(mark.attempt)}/{step}", folders=False)
        await place.blobs.delete([place.key(mark.attempt, int(step), name) for name in states])


async def newest(place: Place, before: int, into: Path, world: World = ALONE) -> tuple[Checkpoint, Path] | None:
    """The most advanced valid checkpoint of any attempt below `before`, its state copied to a file in `into`; None if
    none. Where ranks hold parts, each gets its own, all of the same checkpoint.

    One that is incomplete or damaged is passed over for the next best, and logged.
    """
    # Words between ranks wait, and the store's own loop must not.
    found = await asyncio.to_thread(world.told, await _found(place, before) if world.first else None)
    for attempt, step in found:
        got = await _read(place, attempt, step, into, world.rank)
        if not await asyncio.to_thread(world.any_prepared, got is None):
            return got
    return None


async def _read(place: Place, attempt: int, step: int, into: Path, rank: int) -> tuple[Checkpoint, Path] | None:
    try:
        mark = load(Checkpoint, await place.blobs.get(place.key(attempt, step, MARK)), what=f"checkpoint {step}")
        name, part = mark.part(rank)
        state = await place.blobs.fetch(
            place.key(attempt, step, name), into / STATE, sha256=part.digest.removeprefix("sha256:"), size=part.size
        )
    except (Missing, Corrupt) as error:
        _log.warning("checkpoint.passed_over", attempt=attempt, step=step, reason=error.reason, message=error.message)
        return None
    return mark, state


async def _found(place: Place, before: int) -> list[tuple[int, int]]:
    """(attempt, step) of every checkpoint folder of earlier attempts, most advanced first."""
    found = []
    for attempt in range(1, before):
        found += [(attempt, int(step)) for step in await names(place.blobs, place.folder(attempt), folders=True)]
    return sorted(found, key=lambda pair: (pair[1], pair[0]), reverse=True)


def write_state(tensors: Mapping[str, torch.Tensor], path: Path) -> tuple[str, int]:
    """Write a state to a local file and return its (digest, size). Raises Exhausted when the disk is full."""
    write({name: value.to("cpu").contiguous() for name, value in tensors.items()}, path)
    found = digest_file(path)
    return found.digest, found.size
