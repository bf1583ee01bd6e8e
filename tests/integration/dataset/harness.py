"""A real dataset service: its own process, real gRPC, a real store."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2 as pb
from marsam.api.dataset.v1 import dataset_pb2_grpc
from marsam.rpc.wire import channel

CHUNK = 256 * 1024
DATASET = "projects/default/datasets/set"


@dataclass(frozen=True, kw_only=True)
class Running:
    """A service process and a stub to it."""

    process: asyncio.subprocess.Process
    stub: "dataset_pb2_grpc.DatasetServiceAsyncStub"
    target: str
    http: str


Start = Callable[[], AbstractAsyncContextManager[Running]]


def starter(store: Path | str) -> Start:
    """Starts a service over `store`, any number of times."""

    @asynccontextmanager
    async def run() -> AsyncIterator[Running]:
        env = {
            **os.environ,
            "MARSAM_STORE": str(store),
            "MARSAM_DECODE_WORKERS": "2",
            "MARSAM_IMPORT_LEASE_S": "3",
            "OMP_NUM_THREADS": "1",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "marsam_dataset", env=env, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        try:
            assert process.stdout is not None
            line = await asyncio.wait_for(process.stdout.readline(), 60)
            ready = json.loads(line)
            async with channel(ready["grpc"]) as open_channel:
                stub = dataset_pb2_grpc.DatasetServiceStub(open_channel)
                yield Running(process=process, stub=stub, target=ready["grpc"], http=ready["http"])
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(process.wait(), 30)

    return run


async def create(running: Running, name: str = DATASET) -> None:
    parent, _, dataset_id = name.rpartition("/datasets/")
    await running.stub.CreateDataset(pb.CreateDatasetRequest(parent=parent, dataset_id=dataset_id), timeout=30)


async def parts(files: dict[str, bytes], header: pb.ImportHeader) -> AsyncIterator[pb.ImportItemsRequest]:
    """A folder as the client stream of ImportItems."""
    yield pb.ImportItemsRequest(header=header)
    for path, data in files.items():
        yield pb.ImportItemsRequest(file=common_pb2.FileHeader(path=path, size_bytes=len(data)))
        for at in range(0, len(data), CHUNK):
            yield pb.ImportItemsRequest(chunk=data[at : at + CHUNK])


async def send(running: Running, files: dict[str, bytes], *, dataset: str = DATASET, request_id: str = "") -> pb.Import:
    header = pb.ImportHeader(parent=dataset, request_id=request_id)
    response = await running.stub.ImportItems(parts(files, header), timeout=120)
    return getattr(response, "import")


async def follow(running: Running, name: str) -> list[pb.Import]:
    """Every update of an import until it is over."""
    updates = running.stub.WatchImport(pb.WatchImportRequest(name=name), timeout=300)
    return [getattr(update, "import") async for update in updates]


async def bring(running: Running, files: dict[str, bytes], **options: str) -> pb.Import:
    """Import a folder and wait until it is done."""
    done = (await follow(running, (await send(running, files, **options)).name))[-1]
    assert done.state == common_pb2.JOB_STATE_SUCCEEDED, done
    return done


async def items(running: Running, dataset: str = DATASET) -> dict[str, pb.Item]:
    """All items by file name."""
    found: dict[str, pb.Item] = {}
    token = ""
    while True:
        page = await running.stub.ListItems(
            pb.ListItemsRequest(parent=dataset, page_size=40, page_token=token), timeout=30
        )
        found.update({item.file_name: item for item in page.items})
        token = page.next_page_token
        if not token:
            return found
