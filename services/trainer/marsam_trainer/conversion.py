"""The question that a checkpoint in one file is to the run program."""

from dataclasses import dataclass
from typing import ClassVar

from marsam.catalog.files import FileRef


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What the run program's `convert` is asked: the parts of a stored checkpoint, stored.

    `local` is where the file lies on this machine, or empty. `configs` are the JSON files of the base that it becomes.
    """

    SCHEMA: ClassVar[str] = "marsam.conversion/1"

    project: str
    profile: str
    family: str
    file: FileRef
    local: str
    configs: tuple[FileRef, ...]
