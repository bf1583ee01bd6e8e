"""DatasetService on the wire: parse, ask the domain, wrap. Errors are MarsamErrors; the server turns them to
statuses.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2 as pb
from marsam.api.dataset.v1 import dataset_pb2_grpc
from marsam.catalog import repository
from marsam.catalog.datasets import Dataset
from marsam.core.clock import Clock
from marsam.core.errors import Exists, Invalid, Missing, Unsupported
from marsam.core.ids import new_ulid
from marsam.core.names import ResourceName, format_name, parse
from marsam.core.records import canonical
from marsam.jobs.requests import remember
from marsam.rpc.server.paging import leading, page
from marsam.rpc.wire.messages import file_message
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.store.content import stream_blob
from marsam.telemetry import Meter, Span, metrics, span
from marsam_dataset import versions, wire
from marsam_dataset.assess import assess
from marsam_dataset.ingest.imports import Imports
from marsam_dataset.ingest.receive import Receiver
from marsam_dataset.reviews import Decision, Reviews
from marsam_dataset.settled import Settled
from marsam_dataset.watching import until

SERVICE = "marsam.api.dataset.v1.DatasetService"
_READ_AT_ONCE = 32


class DatasetService(dataset_pb2_grpc.DatasetServiceServicer):
    """The servicer. `max_files` and `max_file_bytes` bound one import; `draining` tells that the process ends."""

    def __init__(
        self,
        blobs: Blobs,
        imports: Imports,
        *,
        clock: Clock,
        meter: Meter,
        max_files: int,
        max_file_bytes: int,
        draining: asyncio.Event,
    ) -> None:
        self._blobs = blobs
        self._imports = imports
        self._clock = clock
        self._meter = meter
        self._max_files = max_files
        self._max_file_bytes = max_file_bytes
        self._draining = draining
        # Commits choose the next free number: one at a time in this process.
        self._committing = asyncio.Lock()
        self._committed: dict[str, datetime] = {}
        self._settled = Settled(blobs, meter)

    async def CreateDataset(self, request: pb.CreateDatasetRequest, context: Any) -> pb.CreateDatasetResponse:
        project = parse(request.parent, "project", field="parent").project
        name = format_name("dataset", project, request.dataset_id)
        stored = Dataset(
            name=name,
            create_time=self._clock.now(),
            display_name=request.display_name,
            labels=dict(request.labels),
        )
        repeated = False
        if request.request_id:
            asked = canonical([name, stored.display_name, dict(stored.labels)])
            _, new = await remember(
                self._blobs,
                project,
                scope="create dataset",
                request_id=request.request_id,
                content=asked,
                result=name,
                clock=self._clock,
            )
            repeated = not new
        try:
            await repository.save_dataset(self._blobs, stored)
        except Exists:
            if not repeated:
                raise
        return pb.CreateDatasetResponse(dataset=await self._dataset(name))

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Any) -> pb.GetDatasetResponse:
        return pb.GetDatasetResponse(dataset=await self._dataset(request.name))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Any) -> pb.ListDatasetsResponse:
        project = parse(request.parent, "project", field="parent").project
        ids = await names(self._blobs, keys.datasets(project), folders=True)
        asked = page(size=request.page_size, token=request.page_token, question=("ListDatasets", request.parent))
        shown, token = asked.cut(ids)
        found = {}
        for id_ in shown:
            try:
                found[id_] = await self._dataset(format_name("dataset", project, id_))
            except Missing:  # deleted while we listed
                continue
        fitting, token = asked.fit(list(found.values()), list(found), token)
        return pb.ListDatasetsResponse(datasets=fitting, next_page_token=token)

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Any) -> pb.DeleteDatasetResponse:
        await repository.load_dataset(self._blobs, request.name)
        raise Unsupported(
            "datasets cannot be deleted yet",
            reason="DELETE_LATER",
            resource=request.name,
            remedy="ReviewItems rejects single items, TakedownItem withdraws one",
        )

    async def CreateUploads(self, request: pb.CreateUploadsRequest, context: Any) -> pb.CreateUploadsResponse:
        parse(request.parent, "dataset", field="parent")
        raise Unsupported(
            "upload links are not handed out yet",
            reason="UPLOADS_LATER",
            remedy="stream the files with ImportItems; nothing needs links",
        )

    async def ImportItems(self, requests: AsyncIterator[pb.ImportItemsRequest], context: Any) -> pb.ImportItemsResponse:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("part") != "header":
            raise Invalid("an import begins with its header", field="header", reason="STREAM_ORDER")
        header = first.header
        project = parse(header.parent, "dataset", field="header.parent").project
        await repository.load_dataset(self._blobs, header.parent)
        receiver = Receiver(self._blobs, project, max_files=self._max_files, max_file_bytes=self._max_file_bytes)
        try:
            async for request in requests:
                match request.WhichOneof("part"):
                    case "file":
                        await receiver.begin(
                            request.file.path, size=request.file.size_bytes, digest=request.file.digest
                        )
                    case "chunk":
                        receiver.write(request.chunk)
                        self._meter.inc(metrics.IMPORT_BYTES, len(request.chunk))
                    case _:
                        raise Invalid("an import has one header", field="header", reason="STREAM_ORDER")
            files = await receiver.finish()
        finally:
            await receiver.close()
        if not files:
            raise Invalid("no file was sent", reason="IMPORT_EMPTY", remedy="send at least one picture")
        name, tally = await self._imports.create(
            header.parent,
            files,
            default_rights=wire.rights_from(header.default_rights),
            request_id=header.request_id,
        )
        return pb.ImportItemsResponse(**{"import": wire.import_(name, tally)})

    async def WatchImport(self, request: pb.WatchImportRequest, context: Any) -> AsyncIterator[pb.WatchImportResponse]:
        async for tally in until(self._draining, self._imports.watch(request.name)):
            yield pb.WatchImportResponse(**{"import": wire.import_(request.name, tally)})

    async def ListItems(self, request: pb.ListItemsRequest, context: Any) -> pb.ListItemsResponse:
        parent = parse(request.parent, "dataset", field="parent")
        await repository.load_dataset(self._blobs, request.parent)
        standing = await Reviews(self._blobs, parent, self._clock).standing()
        stored = await names(self._blobs, keys.items(parent.project, parent.id), folders=False)
        ids = [id_ for n in stored if standing.verdicts.get(id_ := n.removesuffix(".json")) != "takedown"]
        asked = page(size=request.page_size, token=request.page_token, question=("ListItems", request.parent))
        shown, token = asked.cut(ids)
        items = []
        for at in range(0, len(shown), _READ_AT_ONCE):
            some = [f"{request.parent}/items/{id_}" for id_ in shown[at : at + _READ_AT_ONCE]]
            items += await asyncio.gather(*(repository.load_item(self._blobs, name) for name in some))
        messages = [wire.item(request.parent, item, standing) for item in items]
        fitting, token = asked.fit(messages, shown, token)
        return pb.ListItemsResponse(items=fitting, next_page_token=token)

    async def ReadItem(self, request: pb.ReadItemRequest, context: Any) -> AsyncIterator[pb.ReadItemResponse]:
        name = parse(request.name, "item")
        item = await repository.load_item(self._blobs, request.name)
        standing = await self._reviews(name.project, name.ids[0]).standing()
        if standing.verdicts.get(item.id) == "takedown":
            raise Missing(f"{request.name} was withdrawn", reason="ITEM_WITHDRAWN", resource=request.name)
        async for chunk in stream_blob(self._blobs, name.project, item.image.digest):
            yield pb.ReadItemResponse(chunk=chunk)

    async def ReviewItems(self, request: pb.ReviewItemsRequest, context: Any) -> pb.ReviewItemsResponse:
        parent = parse(request.parent, "dataset", field="parent")
        await repository.load_dataset(self._blobs, request.parent)
        decisions = wire.decisions(request.reviews, dataset_name=request.parent)
        items = await asyncio.gather(
            *(repository.load_item(self._blobs, f"{request.parent}/items/{d.item}") for d in decisions)
        )
        writer_id = ""
        if request.request_id:
            asked = pb.ReviewItemsRequest(parent=request.parent, reviews=request.reviews)
            writer_id, _ = await remember(
                self._blobs,
                parent.project,
                scope="review items",
                request_id=request.request_id,
                content=asked.SerializeToString(deterministic=True),
                result=new_ulid(self._clock),
                clock=self._clock,
            )
        standing = await self._reviews(parent.project, parent.id).add(decisions, writer_id=writer_id)
        return pb.ReviewItemsResponse(items=leading([wire.item(request.parent, item, standing) for item in items]))

    async def CheckDataset(self, request: pb.CheckDatasetRequest, context: Any) -> pb.CheckDatasetResponse:
        parse(request.name, "dataset")
        with span(self._meter, Span.DATASET_CHECK, dataset=request.name):
            assessment = await assess(self._blobs, request.name, self._clock)
        return pb.CheckDatasetResponse(report=wire.report(request.name, assessment))

    async def CommitVersion(self, request: pb.CommitVersionRequest, context: Any) -> pb.CommitVersionResponse:
        parse(request.parent, "dataset", field="parent")
        async with self._committing:
            with span(self._meter, Span.DATASET_COMMIT, dataset=request.parent):
                version = await versions.commit(
                    self._blobs,
                    request.parent,
                    version_id=request.version_id,
                    message=request.message,
                    request_id=request.request_id,
                    clock=self._clock,
                )
        return pb.CommitVersionResponse(version=wire.version(version))

    async def GetVersion(self, request: pb.GetVersionRequest, context: Any) -> pb.GetVersionResponse:
        return pb.GetVersionResponse(version=wire.version(await repository.load_version(self._blobs, request.name)))

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:
        await repository.load_dataset(self._blobs, request.parent)
        stored = {v.version: v for v in await repository.list_versions(self._blobs, request.parent)}
        asked = page(size=request.page_size, token=request.page_token, question=("ListVersions", request.parent))
        shown, token = asked.cut(sorted(stored))
        messages = [wire.version(stored[id_]) for id_ in shown]
        fitting, token = asked.fit(messages, shown, token)
        return pb.ListVersionsResponse(versions=fitting, next_page_token=token)

    async def DiffVersions(self, request: pb.DiffVersionsRequest, context: Any) -> pb.DiffVersionsResponse:
        question = ("DiffVersions", request.old, request.new)
        asked = page(size=request.page_size, token=request.page_token, question=question)
        parts, token = asked.of(await self._settled.difference(request.old, request.new), wire.difference_entry)
        answer = pb.DiffVersionsResponse(next_page_token=token)
        for part in parts:
            answer.MergeFrom(part)
        return answer

    async def ExportVersion(self, request: pb.ExportVersionRequest, context: Any) -> pb.ExportVersionResponse:
        question = ("ExportVersion", request.name, request.format)
        asked = page(size=request.page_size, token=request.page_token, question=question)
        shown, token = asked.of(await self._settled.export(request.name, request.format), file_message)
        export = wire.export_name(request.name, request.format)
        return pb.ExportVersionResponse(export=export, files=shown, next_page_token=token)

    async def ReadExport(self, request: pb.ReadExportRequest, context: Any) -> AsyncIterator[pb.ReadExportResponse]:
        name, format = wire.split_export_name(request.export)
        for file in await self._settled.export(name, format):
            header = common_pb2.FileHeader(path=file.path, size_bytes=file.size, digest=file.digest)
            yield pb.ReadExportResponse(file=header)
            async for chunk in stream_blob(self._blobs, parse(name, "version").project, file.digest):
                yield pb.ReadExportResponse(chunk=chunk)

    async def TakedownItem(self, request: pb.TakedownItemRequest, context: Any) -> pb.TakedownItemResponse:
        name = parse(request.name, "item")
        item = await repository.load_item(self._blobs, request.name)
        decision = Decision(item=item.id, verdict="takedown", note=request.reason)
        standing = await self._reviews(name.project, name.ids[0]).add([decision])
        affected = await versions.trained_on(self._blobs, name.project, name.ids[0], item)
        dataset_name = format_name("dataset", name.project, name.ids[0])
        shown = wire.item(dataset_name, item, standing)
        return pb.TakedownItemResponse(item=shown, affected_models=leading(affected, limit=500_000))

    def _reviews(self, project: str, dataset_id: str) -> Reviews:
        return Reviews(self._blobs, parse(format_name("dataset", project, dataset_id), "dataset"), self._clock)

    async def _dataset(self, name: str) -> pb.Dataset:
        stored = await repository.load_dataset(self._blobs, name)
        parts = parse(name, "dataset")
        items = await names(self._blobs, keys.items(parts.project, parts.id), folders=False)
        return wire.dataset(stored, items=len(items), latest=await self._latest(parts))

    async def _latest(self, dataset: ResourceName) -> str:
        """The newest version's name, '' when there is none. Versions are immutable: each is read once for its time."""
        committed = []
        for file in await names(self._blobs, keys.versions(dataset.project, dataset.id), folders=False):
            name = format_name("version", dataset.project, dataset.id, file.removesuffix(".json"))
            if name not in self._committed:
                self._committed[name] = (await repository.load_version(self._blobs, name)).create_time
            committed.append((self._committed[name], name))
        return max(committed)[1] if committed else ""
