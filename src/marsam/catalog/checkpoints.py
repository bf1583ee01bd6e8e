"""A run's checkpoints as they lie in the store: a state, and a mark that is written last and makes it count."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from marsam.store import keys

KEPT = 2
"""Checkpoints that are kept: the newest may be the one that was being written when the disk filled."""

STATE = "state.safetensors"
MARK = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class StatePart:
    """The part of a state that one of a run's processes wrote."""

    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The commit mark of a checkpoint: after how many steps, of which order, and what its state's bytes are called.

    `spec_digest` covers the order, and `order` is what it covers; `cores`, `lanes` and the kind of `device` are how it
    was computed, because sums cut otherwise round differently. Checkpoints from before some of that was recorded leave
    it empty.

    A state that several processes wrote, each its part, lies in as many files: `parts` in their order, each in the file
    `state_name` says; then `state_digest` is of their digests and `state_size` of all.
    """

    SCHEMA: ClassVar[str] = "marsam.checkpoint/1"

    attempt: int
    step: int
    spec_digest: str
    state_digest: str
    state_size: int
    cores: int
    lanes: int
    code_version: str
    libraries: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    order: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[StatePart, ...] = ()

    def part(self, rank: int) -> tuple[str, StatePart]:
        """The file that the process `rank` reads its state from, and what must be in it."""
        if not self.parts:
            return STATE, StatePart(digest=self.state_digest, size=self.state_size)
        return state_name(rank, len(self.parts)), self.parts[rank]


def state_name(rank: int, of: int) -> str:
    """What the file of one of several parts of a state is called."""
    return f"state-{rank + 1:05d}-of-{of:05d}.safetensors"


def checkpoints(project: str, run: str, attempt: int) -> str:
    """The folder of an attempt's checkpoints, a folder each, named by `step_name`."""
    return keys.attempt_file(project, "runs", run, attempt, "checkpoints")


def step_name(step: int) -> str:
    """What the folder of the checkpoint after `step` steps is called; names sort as steps do."""
    return f"{step:08d}"
