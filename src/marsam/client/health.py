"""Asking a service whether it serves."""

import time

import grpc.aio

from marsam.core.errors import Precondition, Unavailable
from marsam.rpc.wire import ClientTls, channel, error_of, explain

# grpc.health.v1.HealthCheckResponse{status: SERVING}; two bytes are not worth another dependency of the SDK.
_SERVING = b"\x08\x01"


async def check(target: str, *, seconds: float = 5.0, tls: ClientTls | None = None) -> float:
    """Seconds the answer took. Raises Unavailable when the service does not answer, or does not serve now, and
    Precondition when TLS is why it does not."""
    async with channel(target, tls=tls) as opened:
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = opened.unary_unary("/grpc.health.v1.Health/Check")
        began = time.monotonic()
        try:
            answer = await ask(b"", timeout=seconds)
        except grpc.aio.AioRpcError as failure:
            error = await explain(error_of(failure), target, tls)
            if isinstance(error, Precondition):
                raise error from failure
            raise Unavailable(f"{target} does not answer: {error.message}", reason="NOT_SERVING") from failure
    if answer != _SERVING:
        raise Unavailable(f"{target} answers, and does not serve now", reason="NOT_SERVING")
    return time.monotonic() - began
