from collections.abc import AsyncIterator

import pytest

from marsam.api.dataset.v1 import dataset_pb2_grpc
from marsam.rpc.wire import channel
from tests.integration.rpc.support import Served, serving


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as server:
        yield server


@pytest.fixture
async def datasets(served: Served) -> AsyncIterator[dataset_pb2_grpc.DatasetServiceStub]:
    async with channel(served.target) as open_channel:
        yield dataset_pb2_grpc.DatasetServiceStub(open_channel)
