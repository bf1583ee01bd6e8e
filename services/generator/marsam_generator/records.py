"""Records of finished generations in the store."""

from marsam.catalog.generations import GenerationRecord
from marsam.core.errors import Exists, Missing
from marsam.core.names import format_name, parse
from marsam.core.records import dump, load
from marsam.store import keys
from marsam.store.blobs import Blobs, names

_SUFFIX = ".json"


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
