"""From a picture to the generation, the models, the dataset versions and the rights that it came from."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from marsam.api.generator.v1 import generator_pb2
from marsam.api.model.v1 import model_pb2
from marsam.client.generation import Generation
from marsam.client.models import Models
from marsam.client.signatures import Signature, check
from marsam.core.errors import Invalid, Missing
from marsam.core.ids import digest_of
from marsam.core.names import parse
from marsam.imaging.inscribed import Inscribed, read

MOST_GENERATIONS = 2000
"""Newest generations among which a picture is looked for that no signature names."""


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """A model that is said to have drawn, and whether the registry has that very one, another of its name, or none."""

    name: str
    digest: str
    state: Literal["same", "another", "gone"]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """`file` and `signature` are what the picture says itself; `generation` is the record that names this very file by
    its digest, which is proof, or None. `nodes` are the lineage, nearest first.
    """

    digest: str
    file: Inscribed
    signature: Signature
    generation: generator_pb2.Generation | None = None
    models: Sequence[TracedModel] = ()
    nodes: Sequence[model_pb2.LineageNode] = ()
    remarks: Sequence[str] = ()


def look(data: bytes, *, trusting: str = "") -> Trace:
    """What the file says by itself; no service is asked. `trusting` is certificates of authorities, PEM. Blocking.
    Raises `Invalid` for no picture, `Corrupt` for a broken one."""
    file = read(data)
    return Trace(digest=digest_of(data), file=file, signature=check(data, file, trusting=trusting))


class Provenance:
    """Asks the generator for its record and the trainer for lineage."""

    def __init__(self, generation: Generation, models: Models) -> None:
        self._generation = generation
        self._models = models

    async def trace(self, data: bytes, *, trusting: str = "") -> Trace:
        """What `look` finds, and the walk from there to the rights of the pictures that were learnt from."""
        seen = await asyncio.to_thread(look, data, trusting=trusting)
        record, remarks = await self._record(seen)
        named = dict(seen.signature.models)
        if record is not None:
            named = dict(record.model_digests)
        elif not named and seen.file.inscription is not None:
            named = dict(seen.file.inscription.models)
        models, nodes = [], dict[str, model_pb2.LineageNode]()
        for name, digest in named.items():
            lineage = await self._lineage(name)
            state: Literal["same", "another"] = "same" if lineage and lineage[0].digest == digest else "another"
            models.append(TracedModel(name=name, digest=digest, state=state if lineage else "gone"))
            nodes |= {node.name: node for node in lineage if node.name not in nodes}
        return Trace(
            digest=seen.digest,
            file=seen.file,
            signature=seen.signature,
            generation=record,
            models=models,
            nodes=list(nodes.values()),
            remarks=remarks,
        )

    async def _record(self, seen: Trace) -> tuple[generator_pb2.Generation | None, list[str]]:
        name = seen.signature.generation
        if not name:
            return await self._generation.with_picture(seen.digest, most=MOST_GENERATIONS), []
        try:
            record = await self._generation.get(str(parse(name, "generation")))
        except (Missing, Invalid):
            return None, [f"its signature names {name[:200]}, which is not in this store"]
        if any(image.file.digest == seen.digest for image in record.images):
            return record, []
        return None, [f"its signature names {name}, whose pictures are others"]

    async def _lineage(self, name: str) -> Sequence[model_pb2.LineageNode]:
        try:
            return await self._models.lineage(str(parse(name, "model")))
        except (Missing, Invalid):  # gone, or no name at all: the picture may say anything
            return []
