"""Datasets: import a folder, look, review, commit a version."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc.aio

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2, dataset_pb2_grpc
from marsam.client import files
from marsam.client.connection import SLOW_SECONDS, resumed, stream, unary, upload
from marsam.client.naming import qualify
from marsam.client.paging import PAGE, every
from marsam.client.states import is_final
from marsam.core.errors import Exists
from marsam.core.ids import new_ulid

_NAMES = 1000
"""File names asked for at once: they are short."""


class Datasets:
    """Names may be short (`hayy`, `hayy/v1`) or full."""

    def __init__(self, channel: grpc.aio.Channel, *, project: str) -> None:
        self._stub = dataset_pb2_grpc.DatasetServiceStub(channel)
        self._project = project

    async def create(
        self, dataset: str, *, display_name: str = "", request_id: str | None = None
    ) -> dataset_pb2.Dataset:
        """Makes an empty dataset. Raises Exists when the name is taken."""
        parent, _, dataset_id = self._name("dataset", dataset).rpartition("/datasets/")
        request = dataset_pb2.CreateDatasetRequest(
            parent=parent, dataset_id=dataset_id, display_name=display_name, request_id=request_id or new_ulid()
        )
        return (await unary(self._stub.CreateDataset, request)).dataset

    async def get(self, dataset: str) -> dataset_pb2.Dataset:
        """One dataset. Raises Missing."""
        request = dataset_pb2.GetDatasetRequest(name=self._name("dataset", dataset))
        return (await unary(self._stub.GetDataset, request)).dataset

    async def list(self) -> Sequence[dataset_pb2.Dataset]:
        """Every dataset of the project."""
        request = dataset_pb2.ListDatasetsRequest(parent=f"projects/{self._project}", page_size=PAGE)
        return await every(self._stub.ListDatasets, request, lambda answer: answer.datasets)

    async def delete(self, dataset: str) -> None:
        """Forgets a dataset. Committed versions that models were trained on stay readable."""
        await unary(self._stub.DeleteDataset, dataset_pb2.DeleteDatasetRequest(name=self._name("dataset", dataset)))

    async def import_folder(
        self,
        path: str | Path,
        dataset: str,
        *,
        create: bool = True,
        default_rights: common_pb2.Rights | None = None,
        request_id: str | None = None,
        progress: files.Report | None = None,
        seconds: float | None = None,
    ) -> dataset_pb2.Import:
        """Sends a folder of pictures and captions; returns when the import is recorded. Then `watch_import`.

        `create` makes the dataset when it is not there. `seconds` limits the sending; None: as long as it takes.
        """
        name = self._name("dataset", dataset)
        found = await files.gather(Path(path))
        if create:
            with contextlib.suppress(Exists):
                await self.create(name)
        header = dataset_pb2.ImportHeader(
            parent=name, request_id=request_id or new_ulid(), default_rights=default_rights
        )

        async def requests() -> AsyncIterator[dataset_pb2.ImportItemsRequest]:
            yield dataset_pb2.ImportItemsRequest(header=header)
            async for request in files.sent(found, wrap=dataset_pb2.ImportItemsRequest, report=progress):
                yield request

        answer = await upload(self._stub.ImportItems, requests(), seconds=seconds)
        return _import_of(answer)

    async def watch_import(self, name: str) -> AsyncIterator[dataset_pb2.Import]:
        """The import as it changes, until it is final."""
        full = self._name("import", name)
        messages = resumed(
            self._stub.WatchImport,
            lambda _: dataset_pb2.WatchImportRequest(name=full),
            final=lambda message: is_final(_import_of(message).state),
        )
        async for message in messages:
            yield _import_of(message)

    async def items(self, dataset: str) -> Sequence[dataset_pb2.Item]:
        """Every item of the working set."""
        request = dataset_pb2.ListItemsRequest(parent=self._name("dataset", dataset), page_size=PAGE)
        return await every(self._stub.ListItems, request, lambda answer: answer.items)

    async def read_item(self, item: str) -> bytes:
        """The normalised picture of an item, as PNG bytes."""
        request = dataset_pb2.ReadItemRequest(name=self._name("item", item))
        return b"".join([message.chunk async for message in stream(self._stub.ReadItem, request)])

    async def review(
        self, dataset: str, reviews: Sequence[dataset_pb2.Review], *, request_id: str | None = None
    ) -> Sequence[dataset_pb2.Item]:
        """Accepts, rejects or re-captions items; up to 1,000 at once."""
        request = dataset_pb2.ReviewItemsRequest(
            parent=self._name("dataset", dataset), reviews=reviews, request_id=request_id or new_ulid()
        )
        return (await unary(self._stub.ReviewItems, request)).items

    async def check(self, dataset: str) -> dataset_pb2.Report:
        """Findings, coverage, and which attributes go together."""
        request = dataset_pb2.CheckDatasetRequest(name=self._name("dataset", dataset))
        return (await unary(self._stub.CheckDataset, request, seconds=SLOW_SECONDS)).report

    async def commit(
        self, dataset: str, *, version: str = "", message: str = "", request_id: str | None = None
    ) -> dataset_pb2.Version:
        """Freezes the kept items as an immutable version; the service counts `v1`, `v2`, … when none is named."""
        request = dataset_pb2.CommitVersionRequest(
            parent=self._name("dataset", dataset),
            version_id=version,
            message=message,
            request_id=request_id or new_ulid(),
        )
        return (await unary(self._stub.CommitVersion, request, seconds=SLOW_SECONDS)).version

    async def version(self, version: str) -> dataset_pb2.Version:
        """One version (`hayy/v1`). Raises Missing."""
        return (
            await unary(self._stub.GetVersion, dataset_pb2.GetVersionRequest(name=self._name("version", version)))
        ).version

    async def versions(self, dataset: str) -> Sequence[dataset_pb2.Version]:
        """Every version of a dataset."""
        request = dataset_pb2.ListVersionsRequest(parent=self._name("dataset", dataset), page_size=PAGE)
        return await every(self._stub.ListVersions, request, lambda answer: answer.versions)

    async def diff(self, old: str, new: str) -> dataset_pb2.DiffVersionsResponse:
        """What changed between two versions."""
        request = dataset_pb2.DiffVersionsRequest(
            old=self._name("version", old), new=self._name("version", new), page_size=_NAMES
        )
        whole = dataset_pb2.DiffVersionsResponse()
        for answer in await every(self._stub.DiffVersions, request, lambda answer: [answer]):
            whole.MergeFrom(answer)
        whole.next_page_token = ""
        return whole

    async def export(self, version: str, into: str | Path, *, format: str = "imagefolder") -> Sequence[Path]:
        """Writes a version as files into a new folder; gives their paths."""
        # Only the export's name is needed: the files come with it.
        request = dataset_pb2.ExportVersionRequest(name=self._name("version", version), format=format, page_size=1)
        made = await unary(self._stub.ExportVersion, request, seconds=SLOW_SECONDS)
        messages = stream(self._stub.ReadExport, dataset_pb2.ReadExportRequest(export=made.export))
        return await files.received(messages, into=Path(into))

    async def take_down(self, item: str, *, reason: str) -> dataset_pb2.TakedownItemResponse:
        """Withdraws a picture from every later version; names the models that saw it."""
        request = dataset_pb2.TakedownItemRequest(name=self._name("item", item), reason=reason)
        return await unary(self._stub.TakedownItem, request)

    def _name(self, kind: str, name: str) -> str:
        return qualify(kind, name, project=self._project, field=kind)


def _import_of(message: dataset_pb2.ImportItemsResponse | dataset_pb2.WatchImportResponse) -> dataset_pb2.Import:
    found: dataset_pb2.Import = getattr(message, "import")  # the field's name is a Python keyword
    return found
