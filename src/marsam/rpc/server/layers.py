"""The three layers of the pipeline: access log, metrics, error table."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from typing import NoReturn

import grpc
import grpc.aio

from marsam.core.errors import Internal, MarsamError
from marsam.core.ids import new_ulid
from marsam.rpc.server.pipeline import Call, Layer
from marsam.rpc.wire.metadata import REQUEST_ID, set_request_id
from marsam.rpc.wire.status import DETAILS, status_code, to_status
from marsam.telemetry import Log, Meter, metrics
from marsam.telemetry.logs import bind

_LOG = Log("marsam.rpc")
_OURS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAVAILABLE,
}
# A caller's id is repeated in logs and metadata: nothing but what cannot harm either.
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@contextlib.asynccontextmanager
async def access_log(call: Call) -> AsyncIterator[None]:
    """Names the call by its request id, and writes one line when it ends."""
    given = call.metadata.get(REQUEST_ID, "")
    call.request_id = given if _SAFE_ID.fullmatch(given) else new_ulid()
    # gRPC serves each call in a task of its own: these end with it.
    set_request_id(call.request_id)
    bind(request_id=call.request_id)
    began = time.monotonic()
    try:
        yield
    finally:
        write = _LOG.debug if call.infrastructure else _LOG.warning if call.code in _OURS else _LOG.info
        write(
            "rpc",
            method=call.method,
            code=call.code.name,
            seconds=round(time.monotonic() - began, 6),
            peer=call.context.peer(),
        )


def metered(meter: Meter) -> Layer:
    """Counts and times every call."""

    @contextlib.asynccontextmanager
    async def layer(call: Call) -> AsyncIterator[None]:
        meter.inc(metrics.RPC_STARTED, method=call.method)
        meter.inc(metrics.RPC_IN_FLIGHT, method=call.method)
        began = time.monotonic()
        try:
            yield
        finally:
            meter.dec(metrics.RPC_IN_FLIGHT, method=call.method)
            meter.observe(metrics.RPC_DURATION, time.monotonic() - began, method=call.method)
            meter.inc(metrics.RPC_HANDLED, method=call.method, code=call.code.name)

    return layer


class Counted:
    """Counts the calls inside its layer, and knows when there is none."""

    def __init__(self) -> None:
        self._open = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextlib.asynccontextmanager
    async def layer(self, call: Call) -> AsyncIterator[None]:
        """One call more, until it has ended."""
        self._open += 1
        self._none.clear()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._none.set()

    async def over(self) -> None:
        """Returns when no call is inside."""
        await self._none.wait()


@contextlib.asynccontextmanager
async def error_table(call: Call) -> AsyncIterator[None]:
    """Turns what the guards and the handler raise into a status. Unknown exceptions keep their text to the log."""
    try:
        yield
    except MarsamError as error:
        await _abort(call, error)
    except grpc.aio.AbortError:
        # The handler chose its own status.
        code = call.context.code()
        call.code = code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
        raise
    except asyncio.CancelledError:
        # gRPC cancels the handler both when the caller goes away and when the caller's time is over.
        remaining = call.context.time_remaining()
        late = remaining is not None and remaining <= 0
        call.code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        raise
    except Exception:
        await _abort(call, bug(call))


def bug(call: Call) -> Internal:
    """What the caller is told of the exception being handled, which goes to the log."""
    _LOG.exception("rpc.bug", method=call.method)
    return Internal(
        f"Marsam failed on this call; the service's log has the cause under request id {call.request_id}",
        remedy="report it with the request id",
    )


async def _abort(call: Call, error: MarsamError) -> NoReturn:
    call.code = status_code(error)
    status = to_status(error)
    await call.context.abort(
        call.code,
        status.message,
        trailing_metadata=((DETAILS, status.SerializeToString()), (REQUEST_ID, call.request_id)),
    )
    raise AssertionError("abort returned")
