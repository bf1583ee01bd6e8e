"""ModelService at the wire: streams in and out, parse, call, answer."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marsam.api.common.v1 import common_pb2
from marsam.api.model.v1 import model_pb2, model_pb2_grpc
from marsam.catalog import aliases
from marsam.catalog.models import Model
from marsam.catalog.repository import list_models, load_model
from marsam.core.clock import Clock
from marsam.core.errors import Invalid, Missing, Precondition
from marsam.core.ids import new_ulid
from marsam.core.names import format_name, parse
from marsam.rpc.server import current_principal
from marsam.rpc.server.paging import leading, page
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.store.cache import Cache
from marsam.store.content import STREAM_CHUNK, stream_blob
from marsam.store.staging import failure
from marsam_trainer import exports, lineage
from marsam_trainer.conversions import Converter
from marsam_trainer.fetching import Fetcher
from marsam_trainer.import_orders import ImportOrder
from marsam_trainer.importing import UPLOAD, Importer
from marsam_trainer.onefile import OneFiles
from marsam_trainer.reservations import Reservations
from marsam_trainer.runs import Runs
from marsam_trainer.settings import TrainerSettings
from marsam_trainer.uploads import Received, Upload
from marsam_trainer.wire.models import alias_message, kind_of, model_message


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the service stands on."""

    blobs: Blobs
    clock: Clock
    cache: Cache
    runs: Runs
    reservations: Reservations
    converter: Converter
    settings: TrainerSettings


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """See protos/marsam/api/model/v1/model.proto."""

    def __init__(self, parts: Parts) -> None:
        self._blobs = parts.blobs
        self._clock = parts.clock
        self._cache = parts.cache
        self._runs = parts.runs
        self._settings = parts.settings
        one_files = OneFiles(parts.blobs, parts.cache, parts.converter)
        self._importer = Importer(parts.blobs, parts.clock, parts.reservations, one_files)
        self._fetcher = Fetcher(parts.settings, self._importer)
        self._incoming = parts.settings.cache / "incoming"

    async def ImportModel(
        self, request_iterator: AsyncIterator[model_pb2.ImportModelRequest], context: Any
    ) -> model_pb2.ImportModelResponse:
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("header"):
            raise Invalid("the first message must be the header", field="header", reason="STREAM_ORDER")
        order, by = _order(first.header), current_principal().name
        async with self._scratch() as scratch:
            if order.ref:
                if (known := await self._importer.known(order)) is not None:
                    return model_pb2.ImportModelResponse(model=model_message(known))
                received, source = await self._fetcher.model(order, by=by)
                if await anext(request_iterator, None) is not None:
                    raise Invalid("a ref was given, and files too", field="file", reason="STREAM_ORDER")
            else:
                received, source = await self._received(request_iterator, scratch / "files"), UPLOAD
                if (known := await self._importer.known(order, received)) is not None:
                    return model_pb2.ImportModelResponse(model=model_message(known))
            fetched = await self._fetcher.rest(order, received, by=by)
            model = await self._importer.take(
                order, received, source=source, scratch=scratch / "made", by=by, fetched=fetched
            )
        return model_pb2.ImportModelResponse(model=model_message(model))

    async def GetModel(self, request: model_pb2.GetModelRequest, context: Any) -> model_pb2.GetModelResponse:
        return model_pb2.GetModelResponse(model=model_message(await aliases.resolve(self._blobs, request.name)))

    async def ListModels(self, request: model_pb2.ListModelsRequest, context: Any) -> model_pb2.ListModelsResponse:
        project = parse(request.parent, "project", field="parent").project
        asked = page(size=request.page_size, token=request.page_token, question=("ListModels", request.parent))
        ids, token = asked.cut(await self._ids(project))
        models = await asyncio.gather(
            *(load_model(self._blobs, format_name("model", project, id_)) for id_ in ids), return_exceptions=True
        )
        shown = {}
        for id_, model in zip(ids, models, strict=True):
            if isinstance(model, Model):
                shown[id_] = model_message(model)
            elif not isinstance(model, Missing):  # deleted since it was listed
                raise model
        fitting, token = asked.fit(list(shown.values()), list(shown), token)
        return model_pb2.ListModelsResponse(models=fitting, next_page_token=token)

    async def DeleteModel(self, request: model_pb2.DeleteModelRequest, context: Any) -> model_pb2.DeleteModelResponse:
        name = parse(request.name, "model")
        await load_model(self._blobs, request.name)
        built = [m.name for m in await list_models(self._blobs, name.project) if m.base == request.name]
        store = self._runs.store(name.project)
        running = [i for i in await store.live() if (await self._runs.spec(name.project, i)).base == request.name]
        if built or running:
            holder = built[0] if built else f"run {running[0]}"
            raise Precondition(
                f"{request.name} is what {holder} is built on", reason="MODEL_IN_USE", resource=request.name
            )
        await aliases.delete_model(self._blobs, request.name)
        return model_pb2.DeleteModelResponse()

    async def SetAlias(self, request: model_pb2.SetAliasRequest, context: Any) -> model_pb2.SetAliasResponse:
        entry = await aliases.set_alias(
            self._blobs,
            request.name,
            request.model,
            clock=self._clock,
            etag=request.etag,
            by=current_principal().name,
        )
        return model_pb2.SetAliasResponse(alias=alias_message(request.name, entry))

    async def ListAliasHistory(
        self, request: model_pb2.ListAliasHistoryRequest, context: Any
    ) -> model_pb2.ListAliasHistoryResponse:
        history = await aliases.alias_history(self._blobs, request.name)
        if not history:
            raise Missing(f"{request.name} never pointed at anything", reason="ALIAS_NOT_FOUND", resource=request.name)
        asked = page(size=request.page_size, token=request.page_token, question=("ListAliasHistory", request.name))
        shown, token = asked.of(history, lambda entry: alias_message(request.name, entry))
        return model_pb2.ListAliasHistoryResponse(history=shown, next_page_token=token)

    async def ExportModel(
        self, request: model_pb2.ExportModelRequest, context: Any
    ) -> AsyncIterator[model_pb2.ExportModelResponse]:
        model = await aliases.resolve(self._blobs, request.name)
        async with self._scratch() as scratch:
            files = await exports.export(self._blobs, self._cache, model, dialect=request.dialect, scratch=scratch)
            for file in files:
                header = common_pb2.FileHeader(path=file.path, size_bytes=file.size, digest=file.digest)
                yield model_pb2.ExportModelResponse(file=header)
                async for chunk in self._chunks(model.project, file):
                    yield model_pb2.ExportModelResponse(chunk=chunk)

    async def ReadArtifact(
        self, request: model_pb2.ReadArtifactRequest, context: Any
    ) -> AsyncIterator[model_pb2.ReadArtifactResponse]:
        project = await self._holder(request.name, request.digest)
        async for chunk in stream_blob(self._blobs, project, request.digest):
            yield model_pb2.ReadArtifactResponse(chunk=chunk)

    async def TraceLineage(
        self, request: model_pb2.TraceLineageRequest, context: Any
    ) -> model_pb2.TraceLineageResponse:
        nodes = await lineage.trace(self._blobs, request.name)
        messages = [
            model_pb2.LineageNode(
                name=node.name, kind=node.kind, digest=node.digest, summary=node.summary, parents=node.parents
            )
            for node in nodes
        ]
        return model_pb2.TraceLineageResponse(nodes=leading(messages))

    async def _ids(self, project: str) -> list[str]:
        """Ids of the project's models."""
        found = await names(self._blobs, keys.models(project), folders=False)
        return [name.removesuffix(".json") for name in found if name.endswith(".json")]

    async def _holder(self, name: str, digest: str) -> str:
        """The project of `name` (a model, an alias, or a run with previews), which must hold the file `digest`.

        Raises Missing (ARTIFACT_NOT_FOUND): digests alone open nothing.
        """
        if name.split("/")[2:3] == ["runs"]:
            parts = parse(name, "run")
            held = await self._runs.preview_digests(parts.project, parts.id)
            project = parts.project
        else:
            model: Model = await aliases.resolve(self._blobs, name)
            held = {file.digest for file in (*model.files, *model.samples)}
            project = model.project
        if digest not in held:
            raise Missing(f"{name} has no file {digest}", reason="ARTIFACT_NOT_FOUND", resource=name)
        return project

    async def _received(self, messages: AsyncIterator[model_pb2.ImportModelRequest], folder: Path) -> list[Received]:
        upload = Upload(folder, limit_bytes=self._settings.max_import_bytes)
        try:
            async for message in messages:
                match message.WhichOneof("part"):
                    case "file":
                        file = message.file
                        await upload.begin(file.path, size=file.size_bytes, digest=file.digest)
                    case "chunk":
                        await upload.write(message.chunk)
                    case _:
                        raise Invalid("a second header arrived", field="header", reason="STREAM_ORDER")
            return list(await upload.finish())
        finally:
            await upload.close()

    async def _chunks(self, project: str, file: exports.Exported) -> AsyncIterator[bytes]:
        if file.local is None:
            async for chunk in stream_blob(self._blobs, project, file.digest):
                yield chunk
            return
        with await asyncio.to_thread(file.local.open, "rb") as stream:
            while chunk := await asyncio.to_thread(stream.read, STREAM_CHUNK):
                yield chunk

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        """A folder of one call's own, gone with it. What the disk says of it (that it is full) is a stated error."""
        folder = self._incoming / new_ulid(self._clock)
        try:
            await asyncio.to_thread(folder.mkdir, parents=True)
            yield folder
        except OSError as error:
            raise failure(error, "a file in the cache") from error
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)


def _order(header: model_pb2.ImportModelHeader) -> ImportOrder:
    return ImportOrder(
        project=parse(header.parent, "project", field="header.parent").project,
        model_id=header.model_id,
        kind=kind_of(header.kind),
        family=header.family,
        base=header.base,
        licence=header.licence,
        accept_licence=header.accept_licence,
        display_name=header.display_name,
        labels=dict(header.labels),
        request_id=header.request_id,
        ref=header.ref,
        like=header.like,
        distilled=header.distilled,
    )
