"""What is kept of a generation: one small manifest beside the blobs of its pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from marsam.catalog.files import FileRef
from marsam.core.errors import Exists, Invalid, Missing
from marsam.core.names import format_name, parse
from marsam.core.records import dump, load
from marsam.store import keys
from marsam.store.blobs import Blobs, names

_SUFFIX = ".json"


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
    """Seconds: waiting for the first tick, denoising, decoding (of all pictures), and from call to end."""

    queued: float
    denoise: float
    decode: float
    total: float


@dataclass(frozen=True, kw_only=True)
class GenerationRecord:
    """A finished generation. `request` is the resolved request as JSON, `models` maps every model's name to its
    digest.
    """

    SCHEMA: ClassVar[str] = "marsam.generation/1"

    name: str
    request: Mapping[str, Any]
    models: Mapping[str, str]
    pictures: tuple[DrawnPicture, ...]
    timings: Timings
    fingerprint: str
    create_time: datetime

    def __post_init__(self) -> None:
        parse(self.name, "generation")
        if not self.pictures:
            raise Invalid(f"{self.name} has no pictures", field="pictures")


async def save(blobs: Blobs, record: GenerationRecord) -> None:
    """Write the record. One that is there already was written by the same request, drawn twice, and is kept."""
    name = parse(record.name, "generation")
    try:
        await blobs.create(keys.generation(name.project, name.id), dump(record))
    except Exists:
        return


async def load_record(blobs: Blobs, name: str) -> GenerationRecord:
    """Return the record of a finished generation. Raises `Missing` (GENERATION_NOT_FOUND)."""
    parts = parse(name, "generation")
    try:
        data = await blobs.get(keys.generation(parts.project, parts.id))
    except Missing as error:
        raise Missing(
            f"{name} does not exist, or did not finish", reason="GENERATION_NOT_FOUND", resource=name
        ) from error
    return load(GenerationRecord, data, what=name)


async def list_names(blobs: Blobs, project: str) -> list[str]:
    """Names of all finished generations, newest first."""
    files = await names(blobs, keys.generations(project), folders=False)
    ids = (file.removesuffix(_SUFFIX) for file in reversed(files) if file.endswith(_SUFFIX))
    return [format_name("generation", project, id_) for id_ in ids]
