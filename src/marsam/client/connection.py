"""Calls: deadlines, typed errors, and streams that survive a restart of the service."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TypeVar, cast

import grpc
import grpc.aio

from marsam.core.errors import Deadline, Expired, Unavailable
from marsam.rpc.wire import error_of

Request = TypeVar("Request")
Answer = TypeVar("Answer")

UNARY_SECONDS = 30.0
"""Deadline of a call that only reads or records."""

SLOW_SECONDS = 180.0
"""Deadline of a call that computes: a check over a dataset, a plan for a run."""

_IDLE_SECONDS = 60.0
"""Services send a bookmark every 15 s; after this silence a stream is taken for dead."""

_PATIENCE_SECONDS = 60.0
"""How long a watch keeps trying to reach a service that does not answer."""


async def unary(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer], request: Request, *, seconds: float = UNARY_SECONDS
) -> Answer:
    """One answer within `seconds`, or a MarsamError."""
    try:
        return await method(request, timeout=seconds)
    except grpc.aio.AioRpcError as failure:
        raise error_of(failure) from failure


async def upload(
    method: grpc.aio.StreamUnaryMultiCallable[Request, Answer],
    requests: AsyncIterable[Request],
    *,
    seconds: float | None,
) -> Answer:
    """Sends a client stream and gives the answer. What reading `requests` raises comes out as it is."""
    broken: list[BaseException] = []

    async def watched() -> AsyncIterator[Request]:
        try:
            async for request in requests:
                yield request
        except Exception as error:
            broken.append(error)
            raise

    call = method(watched(), timeout=seconds)
    try:
        return await call
    except grpc.aio.AioRpcError as failure:
        if broken:
            raise broken[0] from None
        raise error_of(failure) from failure
    except asyncio.CancelledError:
        # gRPC cancels its own call when the request iterator raises.
        if broken:
            raise broken[0] from None
        raise


async def stream(
    method: grpc.aio.UnaryStreamMultiCallable[Request, Answer],
    request: Request,
    *,
    seconds: float | None = None,
    idle: float = _IDLE_SECONDS,
) -> AsyncIterator[Answer]:
    """The messages of a server stream. Leaving the loop cancels the call on the server.

    Raises Deadline when the stream is silent for `idle` seconds.
    """
    call = method(request, timeout=seconds)
    try:
        while True:
            # Not wait_for: until Python 3.12 it swallows a cancel that arrives together with a message.
            async with asyncio.timeout(idle):
                message = await call.read()
            if message is grpc.aio.EOF:
                return
            yield cast(Answer, message)
    except grpc.aio.AioRpcError as failure:
        raise error_of(failure) from failure
    except TimeoutError as error:
        raise Deadline(f"the service sent nothing for {idle:.0f} s", reason="STREAM_SILENT") from error
    finally:
        call.cancel()


async def resumed(
    method: grpc.aio.UnaryStreamMultiCallable[Request, Answer],
    request_for: Callable[[str], Request],
    *,
    final: Callable[[Answer], bool],
    patience: float = _PATIENCE_SECONDS,
) -> AsyncIterator[Answer]:
    """A watch that goes on through restarts: continues from the last resume token until a stream ends that has told the
    end, that is, a message of which `final` is true.

    Such a message alone is no end: the watch of a job that is over begins with one, and what happened follows.
    `request_for(token)` builds the request; "" asks for a new snapshot. A token the service no longer knows is
    dropped. Raises Unavailable when the service cannot be reached for `patience` seconds.
    """
    token = ""
    over = False
    last_contact = time.monotonic()
    while True:
        try:
            async for message in stream(method, request_for(token)):
                last_contact = time.monotonic()
                token = getattr(message, "resume_token", "") or token
                over = over or final(message)
                yield message
            if over:
                return
        except Expired:
            if not token:
                raise
            token = ""
            continue
        except (Unavailable, Deadline) as error:
            if time.monotonic() - last_contact > patience:
                raise Unavailable(
                    f"lost the service for {patience:.0f} s: {error.message}",
                    reason="WATCH_LOST",
                    remedy="what you watched goes on without you; look again with the same name",
                ) from error
        # A service that drains ends its streams early and politely; one that died refuses: both come back.
        await asyncio.sleep(0.5)
