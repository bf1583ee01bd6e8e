"""A real server on port 0 around a small servicer of the project's own protos."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from marsam.api.dataset.v1 import dataset_pb2, dataset_pb2_grpc
from marsam.api.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from marsam.rpc.server import Lifecycle, Page, Registration, ServerSettings, serve
from marsam.telemetry import Meter

DATASETS = "marsam.api.dataset.v1.DatasetService"
RUNS = "marsam.api.trainer.v1.TrainerService"


class Datasets(dataset_pb2_grpc.DatasetServiceServicer):
    """GetDataset does what `get` says; ImportItems counts what it is sent."""

    def __init__(self) -> None:
        self.get: Callable[[Any, Any], Awaitable[Any]] = self._found
        self.chunks = 0

    async def _found(self, request: Any, context: Any) -> Any:
        return dataset_pb2.GetDatasetResponse(dataset=dataset_pb2.Dataset(name=request.name))

    async def GetDataset(self, request: Any, context: Any) -> Any:
        return await self.get(request, context)

    async def CreateDataset(self, request: Any, context: Any) -> Any:
        return dataset_pb2.CreateDatasetResponse(dataset=dataset_pb2.Dataset(name="made"))

    async def ImportItems(self, request_iterator: Any, context: Any) -> Any:
        async for request in request_iterator:
            self.chunks += len(request.chunk)
        return dataset_pb2.ImportItemsResponse()


class Runs(trainer_pb2_grpc.TrainerServiceServicer):
    """WatchRun streams bookmarks until the caller goes, the service drains, or `fail_after` messages."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle
        self.unwound = asyncio.Event()
        self.fail_after: tuple[int, Exception] | None = None
        self.obeys_drain = True

    async def WatchRun(self, request: Any, context: Any) -> AsyncIterator[Any]:
        sent = 0
        try:
            while not (self.obeys_drain and self.lifecycle.draining.is_set()):
                if self.fail_after is not None and sent == self.fail_after[0]:
                    raise self.fail_after[1]
                yield trainer_pb2.WatchRunResponse(resume_token=str(sent))
                sent += 1
                await asyncio.sleep(0.01)
        finally:
            self.unwound.set()


@dataclass(kw_only=True)
class Served:
    """A running server and what a test may look at."""

    target: str
    http: str
    meter: Meter
    lifecycle: Lifecycle
    task: "asyncio.Task[None]"
    datasets: Datasets
    runs: Runs
    lines: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(
    settings: ServerSettings | None = None,
    *,
    web: Sequence[Page] = (),
    fitness: Callable[[], AsyncIterator[bool]] | None = None,
) -> AsyncIterator[Served]:
    """Starts a server in this loop and stops it after the block."""
    lifecycle = Lifecycle()
    meter = Meter(service="test", version="0")
    datasets, runs = Datasets(), Runs(lifecycle)
    lines: list[str] = []
    ready = asyncio.Event()

    def announce(line: str) -> None:
        lines.append(line)
        ready.set()

    task = asyncio.create_task(
        serve(
            [
                Registration(
                    service=DATASETS,
                    add=lambda server: dataset_pb2_grpc.add_DatasetServiceServicer_to_server(datasets, server),
                ),
                Registration(
                    service=RUNS,
                    add=lambda server: trainer_pb2_grpc.add_TrainerServiceServicer_to_server(runs, server),
                ),
            ],
            settings or ServerSettings(grace_seconds=0.3),
            meter=meter,
            lifecycle=lifecycle,
            web=web,
            fitness=fitness,
            announce=announce,
        )
    )
    waiter = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    waiter.cancel()
    if task.done():
        await task
    where = json.loads(lines[0])
    try:
        yield Served(
            target=where["grpc"],
            http=where["http"],
            meter=meter,
            lifecycle=lifecycle,
            task=task,
            datasets=datasets,
            runs=runs,
            lines=lines,
        )
    finally:
        lifecycle.stop()
        lifecycle.stop()
        await asyncio.wait_for(task, timeout=10)
