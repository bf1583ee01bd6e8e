"""The engine of this process behind another program's interface: a thread with an event loop, questions as bytes."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Mapping
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

from google.protobuf.message import DecodeError

from marsam.api.engine.v1 import engine_pb2
from marsam.core.errors import Invalid, Missing, Unavailable
from marsam.rpc.server import listening
from marsam.rpc.server.settings import parse_address
from marsam.store.cache import Cache
from marsam.store.metered import MeteredBlobs
from marsam.store.open import open_store, prove
from marsam.telemetry import Log, Meter, configure, http
from marsam_generator.engines import messages
from marsam_generator.engines.answers import answers
from marsam_generator.engines.building import local_engine
from marsam_generator.engines.contract import DrawingEngine
from marsam_generator.heap import trimmed
from marsam_generator.settings import hosted_settings
from marsam_generator.trees import Trees

LISTEN_S = 0.02
"""How often one that waits for its answer is asked whether it still does."""

_log = Log(__name__)
T = TypeVar("T")


class Reply(Protocol):
    """Where an answer goes. Called from the host's thread; none of its methods waits for whoever listens."""

    def send(self, event: bytes) -> None:
        """Say a word: a serialized `EngineEvent`."""
        ...

    def finish(self) -> None:
        """Say that nothing more comes."""
        ...

    def cancelled(self) -> bool:
        """Whether nobody listens any more."""
        ...


class Host:
    """Owns a thread, an event loop on it, and the engine on that. `ask` may be called from any thread."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Build the engine that the environment's MARSAM_* variables describe. Raises what refuses to start."""
        configure(service="engine")
        self._settings = hosted_settings(environment)
        configure(service="engine", level=self._settings.log_level)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine.host", daemon=True)
        self._thread.start()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._stack = contextlib.AsyncExitStack()
        try:
            self._engine = self._wait(self._open())
        except BaseException:
            self.close()
            raise

    def ask(self, request: bytes, reply: Reply) -> None:
        """Put a serialized `EngineRequest` to the engine; returns at once."""
        self._loop.call_soon_threadsafe(self._begin, request, reply)

    def close(self) -> None:
        """Stop whatever is under way, and end the thread."""
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> DrawingEngine:
        settings = self._settings
        meter = Meter(service="engine", version=version("marsam"))
        blobs = MeteredBlobs(await asyncio.to_thread(open_store, settings.store), meter)
        await prove(blobs)
        cache = await asyncio.to_thread(Cache, settings.cache, budget=settings.cache_bytes)
        trees = Trees(blobs, cache)
        self._stack.push_async_callback(trees.close)
        engine = local_engine(settings, blobs=blobs, trees=trees, meter=meter)
        self._stack.push_async_callback(engine.close)
        await self._stack.enter_async_context(trimmed())
        # Nothing of Triton's own sees the queue or the memory of an engine that answers out of turn.
        listener = listening.claim(parse_address(settings.http_listen, field="http_listen"), setting="http_listen")
        app = http.application(meter, ready=lambda: True)
        port = await self._stack.enter_async_context(http.serving(app, listener))
        _log.info("engine.ready", http=f"http://{parse_address(settings.http_listen, field='http_listen').host}:{port}")
        return engine

    async def _close(self) -> None:
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await self._stack.aclose()

    def _begin(self, request: bytes, reply: Reply) -> None:
        try:
            asked = engine_pb2.EngineRequest.FromString(request)
        except DecodeError:
            broken = Invalid("this is no EngineRequest", reason="ENGINE_REQUEST_MALFORMED")
            reply.send(messages.failed_event(broken).SerializeToString())
            reply.finish()
            return
        if asked.HasField("stop"):
            unwanted = self._asking.get(asked.stop.call)
            if unwanted is not None:
                unwanted.cancel()
                answer = engine_pb2.EngineEvent(finished=engine_pb2.Finished())
            else:
                answer = messages.failed_event(Missing("it is not being answered here", reason="CALL_UNKNOWN"))
            reply.send(answer.SerializeToString())
            reply.finish()
            return
        task = self._asking[asked.call] = self._loop.create_task(self._answer(asked, reply), name="engine.answer")
        task.add_done_callback(lambda _: self._asking.pop(asked.call))

    async def _answer(self, asked: engine_pb2.EngineRequest, reply: Reply) -> None:
        task = asyncio.current_task()
        assert task is not None
        listening = asyncio.create_task(_cancelled_with(reply, task), name="engine.listening")
        try:
            async with contextlib.aclosing(answers(self._engine, asked)) as events:
                async for event in events:
                    reply.send(event.SerializeToString())
        except asyncio.CancelledError:
            if not reply.cancelled():
                gone = Unavailable("the engine stopped drawing this", reason="ENGINE_STOPPED", retry_after_s=1.0)
                reply.send(messages.failed_event(gone).SerializeToString())
        finally:
            listening.cancel()
            reply.finish()


async def _cancelled_with(reply: Reply, task: asyncio.Task[None]) -> None:
    """Cancel the task when nobody listens to what it says."""
    while not reply.cancelled():  # noqa: ASYNC110 - Triton can only be asked
        await asyncio.sleep(LISTEN_S)
    task.cancel()
