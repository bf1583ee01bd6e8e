"""Records of generations that ended, in the store."""

from marsam.catalog.generations import GenerationRecord, Timings
from marsam.catalog.repository import load_generation
from marsam.core.errors import Cancelled, Exists, MarsamError
from marsam.core.names import format_name, parse
from marsam.core.records import dump
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam_generator import wire
from marsam_generator.live import Live

_SUFFIX = ".json"


async def save(blobs: Blobs, record: GenerationRecord) -> None:
    """Write the record. Of two that succeeded the first is kept, for both were made of the same request; one that did
    not gives way to one that did."""
    name = parse(record.name, "generation")
    key = keys.generation(name.project, name.id)
    try:
        await blobs.create(key, dump(record))
    except Exists:
        if record.state != "succeeded" or (await load_generation(blobs, record.name)).state == "succeeded":
            return
        await blobs.delete([key])
        await save(blobs, record)


def failure(live: Live, error: BaseException, *, total: float) -> GenerationRecord:
    """The small record of a generation that ended without its pictures after `total` seconds."""
    stated = error if isinstance(error, MarsamError) else None
    return GenerationRecord(
        name=live.name,
        request=wire.request_fields(live.wanted.resolved),
        models=live.wanted.digests,
        pictures=(),
        timings=Timings(queued=0.0, denoise=0.0, decode=0.0, total=total),
        fingerprint=live.accepted.fingerprint if live.accepted else "",
        create_time=live.create_time,
        state="cancelled" if isinstance(error, Cancelled) else "failed",
        reason=stated.reason if stated else "INTERNAL",
        message=stated.message if stated else "an unexpected error; the service's log has it",
    )


async def list_names(blobs: Blobs, project: str) -> list[str]:
    """Names of all generations that ended, newest first."""
    files = await names(blobs, keys.generations(project), folders=False)
    ids = (file.removesuffix(_SUFFIX) for file in reversed(files) if file.endswith(_SUFFIX))
    return [format_name("generation", project, id_) for id_ in ids]
