"""Drawing in a Triton Inference Server, by the model in services/generator/model_repository."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import grpc.aio
from google.rpc import status_pb2
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from marsam.api.engine.v1 import engine_pb2
from marsam.catalog.models import Model
from marsam.core.errors import MarsamError, Unavailable
from marsam.core.records import dump
from marsam.rpc.wire import error_from_status
from marsam.telemetry import Log
from marsam_generator.engine.engine import Denoising
from marsam_generator.engines import messages
from marsam_generator.engines.contract import Commission, Description, Residence, Said

EVERY_S = 1.0
"""How often the engine is asked who it is: only an answer proves that it lives, Triton's own health does not."""

PATIENCE_S = 2.5
"""An engine that takes longer to say who it is counts as ill."""

_OPTIONS = [
    # A picture of 2048 px is 12 MiB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A new server at the same address must be found at once.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
]
_LOST = "ENGINE_LOST"

_log = Log(__name__)


class TritonEngine:
    """See `DrawingEngine`. Made inside the event loop that it belongs to.

    Every question is a stream of its own, so that leaving it cancels that question and no other.
    """

    def __init__(self, *, address: str, model: str) -> None:
        self._address = address
        self._model = model
        self._client = InferenceServerClient(address, channel_args=_OPTIONS)
        self._streams: set[Any] = set()
        self._described: Description | None = None
        self._turned = asyncio.Event()
        self._minding = asyncio.create_task(self._mind(), name="triton.mind")

    async def draw(self, commission: Commission) -> AsyncGenerator[Said, None]:
        """See `DrawingEngine.draw`."""
        async with contextlib.aclosing(self._ask(messages.draw_request(commission))) as events:
            async for event in events:
                said = messages.said_of(event)
                yield said
                if isinstance(said, Denoising):
                    return
        raise self._lost("its answer broke off")

    async def describe(self) -> Description:
        """See `DrawingEngine.describe`."""
        return self._described or await self._describe()

    async def load(self, model: Model, base: Model | None, *, pin: bool) -> None:
        """See `DrawingEngine.load`."""
        parent = b"" if base is None else dump(base)
        await self._one(engine_pb2.EngineRequest(load=engine_pb2.LoadRequest(model=dump(model), base=parent, pin=pin)))

    async def evict(self, model: Model) -> None:
        """See `DrawingEngine.evict`."""
        await self._one(engine_pb2.EngineRequest(evict=engine_pb2.EvictRequest(model=dump(model))))

    async def residents(self) -> Mapping[str, Residence]:
        """See `DrawingEngine.residents`."""
        event = await self._one(engine_pb2.EngineRequest(residents=engine_pb2.ResidentsRequest()))
        return messages.residents_of(event.residents)

    async def close(self) -> None:
        """See `DrawingEngine.close`. What is in Triton's memory stays there: others may draw with it."""
        self._minding.cancel()
        await asyncio.wait({self._minding})
        self._cut()
        await self._client.close()

    async def fitness(self) -> AsyncIterator[bool]:
        """Whether the engine answers: now, and whenever that changes."""
        while True:
            turned = self._turned
            yield self._described is not None
            await turned.wait()

    async def _describe(self) -> Description:
        event = await self._one(engine_pb2.EngineRequest(describe=engine_pb2.DescribeRequest()))
        return replace(messages.description_of(event.description), engine="triton")

    async def _one(self, request: engine_pb2.EngineRequest) -> engine_pb2.EngineEvent:
        async with contextlib.aclosing(self._ask(request)) as events:
            async for event in events:
                return event
        raise self._lost("it said nothing")

    async def _ask(self, request: engine_pb2.EngineRequest) -> AsyncGenerator[engine_pb2.EngineEvent, None]:
        """What the engine says. Raises what it failed with, `Unavailable` when it is gone."""
        stream = self._client.stream_infer(self._inputs(request.SerializeToString()))
        self._streams.add(stream)
        try:
            async for answer, refusal in stream:
                if refusal is not None:
                    raise self._lost(str(refusal))
                event = engine_pb2.EngineEvent.FromString(answer.get_response().raw_output_contents[0])
                if event.HasField("failed"):
                    raise error_from_status(status_pb2.Status.FromString(event.failed.status))
                yield event
        except grpc.aio.AioRpcError as error:
            raise self._lost(error.details() or error.code().name) from error
        except asyncio.CancelledError:
            if stream not in self._streams:
                raise self._lost("it was lost while it drew") from None
            raise
        finally:
            self._streams.discard(stream)
            stream.cancel()

    async def _inputs(self, request: bytes) -> AsyncIterator[dict[str, Any]]:
        tensor = InferInput("request", [len(request)], "UINT8")
        tensor._raw_content = request  # its only setter wants an array
        yield {"model_name": self._model, "inputs": [tensor]}

    async def _mind(self) -> None:
        while True:
            described: Description | None = None
            try:
                described = await asyncio.wait_for(self._describe(), PATIENCE_S)
            except (MarsamError, TimeoutError) as error:
                if self._described is not None:
                    _log.warning("engine.lost", listen=self._address, message=str(error) or "no answer in time")
                if isinstance(error, MarsamError) and error.reason == _LOST:
                    # Triton never ends the streams of a model whose process died.
                    self._cut()
            if self._described is None and described is not None:
                _log.info("engine.found", listen=self._address, device=described.device)
            turned, changed = self._turned, (self._described is None) != (described is None)
            self._described = described
            if changed:
                self._turned = asyncio.Event()
                turned.set()
            await asyncio.sleep(EVERY_S)

    def _cut(self) -> None:
        streams, self._streams = self._streams, set()
        for stream in streams:
            stream.cancel()

    def _lost(self, why: str) -> Unavailable:
        return Unavailable(
            f"the engine at {self._address} is not there: {why}",
            reason=_LOST,
            remedy="see the log of the Triton server",
            retry_after_s=2.0,
        )
