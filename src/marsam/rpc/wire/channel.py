"""Client channels: one place for options, the bearer token and the request id."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from marsam.core.ids import new_ulid
from marsam.rpc.wire.metadata import AUTHORIZATION, REQUEST_ID, current_request_id
from marsam.rpc.wire.retries import service_config, services

# At least the server's `min_recv_ping_interval_without_data`, or it answers GOAWAY too_many_pings.
KEEPALIVE_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
METADATA_BYTES = 64 * 1024


def channel(target: str, *, token: str | None = None) -> grpc.aio.Channel:
    """A channel to `target` (`host:port`, or `dns:///name:port`). Close it, or use it as a context manager.

    Every call gets an `x-request-id` (that of the call being served, else a new one) and, with `token`, the bearer
    header. Reads and calls with a request id are repeated when the server is unavailable, within their deadline.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.service_config", service_config(services())),
        # A new server on the same port must be found at once, not after the default backoff of up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
    if _is_loopback(target):
        # gRPC would send even these calls to the proxy that `http_proxy` names, unless `no_proxy` thinks of it.
        options.append(("grpc.enable_http_proxy", 0))
    headers = _Headers(token)
    interceptors = [_UnaryUnary(headers), _UnaryStream(headers), _StreamUnary(headers), _StreamStream(headers)]
    return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)


def _is_loopback(target: str) -> bool:
    host = target.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


class _Headers:
    def __init__(self, token: str | None) -> None:
        self._token = token

    def onto(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        if metadata.get(REQUEST_ID) is None:
            metadata.add(REQUEST_ID, current_request_id() or new_ulid())
        if self._token is not None and metadata.get(AUTHORIZATION) is None:
            metadata.add(AUTHORIZATION, f"Bearer {self._token}")
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


Continuation = Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]]


# grpc.aio sorts interceptors by class and takes only one role from each: hence four.
class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._headers.onto(client_call_details), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._headers.onto(client_call_details), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(self._headers.onto(client_call_details), request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(self._headers.onto(client_call_details), request_iterator)
