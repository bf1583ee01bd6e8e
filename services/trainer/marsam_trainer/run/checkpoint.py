"""Checkpoints: one kind, complete, in the object store. The state is a blob written first, the manifest is written
last and makes it count.

A crash between the two leaves the checkpoint before valid. The state's digest is in the manifest and is verified when
it is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from marsam.catalog.checkpoints import KEPT, MARK, STATE, Checkpoint, checkpoints, step_name
from marsam.core.errors import Corrupt, Missing
from marsam.core.records import dump, load
from marsam.diffusion.weights.net import save as write
from marsam.store.blobs import Blobs, names
from marsam.store.content import digest_file
from marsam.telemetry.logs import Log

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
    digits = mark.state_digest.removeprefix("sha256:")
    await place.blobs.put(place.key(mark.attempt, mark.step, STATE), state, sha256=digits)
    await place.blobs.create(place.key(mark.attempt, mark.step, MARK), dump(mark))
    steps = await names(place.blobs, place.folder(mark.attempt), folders=True)
    for step in steps[:-KEPT]:
        # The mark first: a checkpoint without it does not count, one without its state would be a trap.
        await place.blobs.delete([place.key(mark.attempt, int(step), MARK)])
        await place.blobs.delete([place.key(mark.attempt, int(step), STATE)])


async def newest(place: Place, before: int, into: Path) -> tuple[Checkpoint, Path] | None:
    """The most advanced valid checkpoint of any attempt below `before`, its state copied to a file in `into`; None if
    none.

    One that is incomplete or damaged is passed over for the next best, and logged.
    """
    for attempt, step in await _found(place, before):
        try:
            mark = load(Checkpoint, await place.blobs.get(place.key(attempt, step, MARK)), what=f"checkpoint {step}")
            state = await place.blobs.fetch(
                place.key(attempt, step, STATE),
                into / STATE,
                sha256=mark.state_digest.removeprefix("sha256:"),
                size=mark.state_size,
            )
        except (Missing, Corrupt) as error:
            _log.warning(
                "checkpoint.passed_over", attempt=attempt, step=step, reason=error.reason, message=error.message
            )
            continue
        return mark, state
    return None


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
