"""Drawing in a Triton Inference Server, by the model in services/generator/model_repository."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from google.rpc import status_pb2
from tritonclient.grpc.aio import InferenceServerClient

from marsam.api.engine.v1 import engine_pb2
from marsam.catalog.models import Model
from marsam.core.clock import SystemClock
from marsam.core.errors import MarsamError, Missing, Unavailable
from marsam.core.ids import new_ulid
from marsam.core.records import dump
from marsam.rpc.wire import error_from_status
from marsam.telemetry import Log
from marsam_generator.engine.engine import Denoising
from marsam_generator.engines import messages
from marsam_generator.engines.calls import LOST, Call, lost
from marsam_generator.engines.contract import Commission, Description, Residence, Said

EVERY_S = 1.0
"""How often the engine is asked who it is: only an answer proves that it lives, Triton's own health does not."""

PATIENCE_S = 2.5
"""An engine that takes longer to say who it is counts as ill."""

LEAVE_S = 5.0
"""How long an engine may take to stop what nobody wants any more; then the call is cut."""

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

_MORE_FOLLOWS = {"admitted", "progress", "looked", "drawn"}

_log = Log(__name__)


class TritonEngine:
    """See `DrawingEngine`. Made inside the event loop that it belongs to.

    Every question is a call of its own, and stopped by another: see `Call`.
    """

    def __init__(self, *, address: str, model: str) -> None:
        self._address = address
        self._model = model
        self._client = InferenceServerClient(address, channel_args=_OPTIONS)
        self._calls: set[Call] = set()
        self._leaving: set[asyncio.Task[None]] = set()
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
        raise lost(self._address, "its answer broke off")

    async def describe(self) -> Description:
        """See `DrawingEngine.describe`. Raises `Unavailable` too when the engine does not say in time who it is."""
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
        for call in list(self._calls):
            call.words.put_nowait(Unavailable("the service stops", reason="ENGINE_STOPPED", retry_after_s=1.0))
        await asyncio.sleep(0)  # whoever draws leaves
        while self._leaving or self._calls:
            await asyncio.wait({*self._leaving, *(call.reading for call in self._calls)}, timeout=LEAVE_S)
            for call in list(self._calls):
                call.cut(None)
        await self._client.close()

    async def fitness(self) -> AsyncIterator[bool]:
        """Whether the engine answers: now, and whenever that changes."""
        while True:
            turned = self._turned
            yield self._described is not None
            await turned.wait()

    async def _describe(self) -> Description:
        question = engine_pb2.EngineRequest(describe=engine_pb2.DescribeRequest())
        try:
            async with asyncio.timeout(PATIENCE_S):
                event = await self._one(question)
        except TimeoutError as error:
            raise Unavailable(
                f"the engine at {self._address} does not answer", reason="ENGINE_SILENT", retry_after_s=2.0
            ) from error
        return replace(messages.description_of(event.description), engine="triton")

    async def _one(self, request: engine_pb2.EngineRequest) -> engine_pb2.EngineEvent:
        async with contextlib.aclosing(self._ask(request)) as events:
            async for event in events:
                return event
        raise lost(self._address, "it said nothing")

    async def _ask(self, request: engine_pb2.EngineRequest) -> AsyncGenerator[engine_pb2.EngineEvent, None]:
        """What the engine says. Raises what it failed with, `Unavailable` when it is gone."""
        request.call = new_ulid(SystemClock())
        call = Call(self._client, self._address, self._model, request)
        self._calls.add(call)
        call.reading.add_done_callback(lambda _: self._calls.discard(call))
        unfinished = True
        try:
            while (word := await call.words.get()) is not None:
                if isinstance(word, MarsamError):
                    raise word
                unfinished = word.WhichOneof("event") in _MORE_FOLLOWS
                if word.HasField("failed"):
                    raise error_from_status(status_pb2.Status.FromString(word.failed.status))
                yield word
        finally:
            if unfinished and not call.over and request.HasField("stop"):
                call.cut(None)
            elif unfinished and not call.over:
                self._spawn(self._leave(call, request.call))

    async def _leave(self, call: Call, name: str) -> None:
        """See that a call ends whose answer nobody wants any more, politely if it can be."""
        patience = LEAVE_S
        try:
            stop = engine_pb2.EngineRequest(stop=engine_pb2.StopRequest(call=name))
            async with asyncio.timeout(LEAVE_S):
                await self._one(stop)
        except Missing:
            # It has ended already, or another Triton behind the same address has it.
            patience = 0.5
        except (MarsamError, TimeoutError):
            patience = 0.0
        await asyncio.wait({call.reading}, timeout=patience)
        if not call.over:
            call.cut(None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="triton.leave")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _mind(self) -> None:
        while True:
            described: Description | None = None
            try:
                described = await self._describe()
            except MarsamError as error:
                if self._described is not None:
                    _log.warning("engine.lost", listen=self._address, message=str(error))
                if error.reason == LOST:
                    # Triton never ends the streams of a model whose process died.
                    for call in list(self._calls):
                        call.cut(lost(self._address, "it died"))
            if self._described is None and described is not None:
                _log.info("engine.found", listen=self._address, device=described.device)
            turned, changed = self._turned, (self._described is None) != (described is None)
            self._described = described
            if changed:
                self._turned = asyncio.Event()
                turned.set()
            await asyncio.sleep(EVERY_S)
