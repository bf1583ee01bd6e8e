"""A question in messages, put to an engine here; what another process says for us goes through this."""

import contextlib
from collections.abc import AsyncGenerator

from marsam.api.engine.v1 import engine_pb2
from marsam.core.errors import Internal, Invalid, MarsamError
from marsam.telemetry import Log
from marsam_generator.engines import messages
from marsam_generator.engines.contract import DrawingEngine

_log = Log(__name__)


async def answers(
    engine: DrawingEngine, request: engine_pb2.EngineRequest
) -> AsyncGenerator[engine_pb2.EngineEvent, None]:
    """What `engine` says to `request`; whatever goes wrong is the last word. Closing this generator stops the work."""
    try:
        async with contextlib.aclosing(_answers(engine, request)) as events:
            async for event in events:
                yield event
    except MarsamError as error:
        yield messages.failed_event(error)
    except Exception:
        _log.exception("engine.bug")
        yield messages.failed_event(Internal("the engine failed", reason="ENGINE_BUG", remedy="see the engine's log"))


async def _answers(
    engine: DrawingEngine, request: engine_pb2.EngineRequest
) -> AsyncGenerator[engine_pb2.EngineEvent, None]:
    done = engine_pb2.EngineEvent(finished=engine_pb2.Finished())
    match request.WhichOneof("request"):
        case "draw":
            async with contextlib.aclosing(engine.draw(messages.commission_of(request.draw))) as said:
                async for word in said:
                    yield messages.event(word)
        case "load":
            load = request.load
            base = messages.model_of(load.base) if load.base else None
            await engine.load(messages.model_of(load.model), base, pin=load.pin)
            yield done
        case "evict":
            await engine.evict(messages.model_of(request.evict.model))
            yield done
        case "residents":
            yield messages.residents_event(await engine.residents())
        case "describe":
            yield messages.description_event(await engine.describe())
        case other:
            raise Invalid(f"an engine cannot answer '{other}'", reason="ENGINE_REQUEST_UNKNOWN")
