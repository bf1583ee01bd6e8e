"""Asking a service whether it serves."""

import time

import grpc.aio

from marsam.core.errors import Unavailable
from marsam.rpc.wire import channel, error_of

# grpc.health.v1.HealthCheckResponse{status: SERVING}; two bytes are not worth another dependency of the SDK.
_SERVING = b"\x08\x01"


async def check(target: str, *, seconds: float = 5.0) -> float:
    """Seconds the answer took. Raises Unavailable when the service does not answer, or does not serve now."""
    async with channel(target) as opened:
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = opened.unary_unary("/grpc.health.v1.Health/Check")
        began = time.monotonic()
        try:
            answer = await ask(b"", timeout=seconds)
        except grpc.aio.AioRpcError as failure:
            error = error_of(failure)
            raise Unavailable(f"{target} does not answer: {error.message}", reason="NOT_SERVING") from failure
    if answer != _SERVING:
        raise Unavailable(f"{target} answers, and does not serve now", reason="NOT_SERVING")
    return time.monotonic() - began
