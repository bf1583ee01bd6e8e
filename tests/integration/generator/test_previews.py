"""Previews over gRPC."""

import io

import grpc
import pytest
from PIL import Image

from marsam.api.generator.v1 import generator_pb2
from marsam.core.errors import Invalid
from marsam.rpc.wire import error_of
from tests.integration.generator.support import Served, generate, request


async def test_previews_come_on_the_way_and_leave_the_picture_alone(served: Served) -> None:
    plain = await generate(served.stub, request(steps=8))
    assert not plain.previews
    answer = await generate(served.stub, request(steps=8, preview=generator_pb2.PreviewSpec(every_steps=3)))
    assert answer.accepted.resolved.preview.max_side == 256
    assert answer.previews and {(one.index, one.step, one.steps) for one in answer.previews} <= {(0, 3, 8), (0, 6, 8)}
    with Image.open(io.BytesIO(answer.previews[-1].data)) as small:
        assert (small.format, small.size) == ("JPEG", (16, 16))
    assert answer.images[0][1] == plain.images[0][1]


async def test_a_preview_after_no_steps_is_refused(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(served.stub, request(preview=generator_pb2.PreviewSpec(max_side=64)))
    error = error_of(caught.value)
    assert isinstance(error, Invalid) and error.violations[0].field == "preview.every_steps"
