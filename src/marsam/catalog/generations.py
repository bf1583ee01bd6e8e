"""What is kept of a generation: one small manifest beside the blobs of its pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from marsam.catalog.files import FileRef
from marsam.core.errors import Invalid
from marsam.core.names import parse


@dataclass(frozen=True, kw_only=True)
class DrawnPicture:
    """One picture of a generation. Sides in pixels."""

    index: int
    seed: int
    width: int
    height: int
    file: FileRef


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds: waiting for the first tick, denoising, decoding (of all pictures), from call to end, and encoding text
    (part of the wait)."""

    queued: float
    denoise: float
    decode: float
    total: float
    encode: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """A sign of life of a generation that is being made, by the one who makes it; its age is the object's. `step` of
    `steps` are done over all pictures."""

    SCHEMA: ClassVar[str] = "marsam.pulse/1"

    name: str
    replica: str
    request: Mapping[str, Any]
    step: int
    steps: int
    create_time: datetime


@dataclass(frozen=True, kw_only=True)
class GenerationRecord:
    """A generation that ended. `request` is the resolved request as JSON, `models` maps every model's name to its
    digest. Only one that succeeded has its pictures; the others say what they ended with.
    """

    SCHEMA: ClassVar[str] = "marsam.generation/1"

    name: str
    request: Mapping[str, Any]
    models: Mapping[str, str]
    pictures: tuple[DrawnPicture, ...]
    timings: Timings
    fingerprint: str
    create_time: datetime
    state: Literal["succeeded", "failed", "cancelled"] = "succeeded"
    reason: str = ""
    message: str = ""

    def __post_init__(self) -> None:
        parse(self.name, "generation")
        if not self.pictures and self.state == "succeeded":
            raise Invalid(f"{self.name} has no pictures", field="pictures")
