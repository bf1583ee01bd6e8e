"""`python -m marsam_dataset`: the dataset service."""

import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator

from marsam.api.dataset.v1 import dataset_pb2_grpc
from marsam.core.clock import SystemClock
from marsam.core.ids import new_ulid
from marsam.imaging.pool import DecodePool
from marsam.rpc.server import Assembly, Lifecycle, Registration, run
from marsam.store.metered import MeteredBlobs
from marsam.store.open import open_store, prove
from marsam.telemetry import Meter
from marsam_dataset.ingest.imports import Imports
from marsam_dataset.service import SERVICE, DatasetService
from marsam_dataset.settings import Settings


@contextlib.asynccontextmanager
async def assemble(settings: Settings, meter: Meter, lifecycle: Lifecycle) -> AsyncIterator[Assembly]:
    """Open the store, prove it, take up unfinished imports."""
    blobs = MeteredBlobs(open_store(settings.store), meter)
    await prove(blobs)
    clock = SystemClock()
    # Process numbers come again, and machines may share a name: two owners must never be one.
    owner = f"{socket.gethostname()}/{os.getpid()}/{new_ulid(clock)}"
    async with (
        DecodePool(size=settings.workers, limits=settings.limits) as pool,
        Imports(
            blobs,
            pool=pool,
            workers=settings.workers,
            owner=owner,
            clock=clock,
            meter=meter,
            lease_s=settings.import_lease_s,
        ) as imports,
    ):
        service = DatasetService(
            blobs,
            imports,
            clock=clock,
            meter=meter,
            max_files=settings.max_import_files,
            max_file_bytes=settings.max_file_bytes,
            draining=lifecycle.draining,
        )
        yield Assembly(
            registrations=[
                Registration(
                    service=SERVICE,
                    add=lambda server: dataset_pb2_grpc.add_DatasetServiceServicer_to_server(service, server),
                )
            ]
        )


if __name__ == "__main__":
    sys.exit(run("dataset", Settings, assemble))
